"""Files in a folder, bounded in bytes, for each key apart. For the event loop's thread."""

import asyncio
import time
from pathlib import Path
from uuid import uuid4

import msgspec
from msgspec import Struct

from mlxspec.api.openai.files.schema import File
from mlxspec.errors import BadRequestError, MlxspecError


class NoSuchFileError(MlxspecError):
    """No such file is kept for this key."""

    status = 404
    type = "invalid_request_error"
    code = "file_not_found"


class Entry(Struct, frozen=True):
    """A file and whose it is."""

    owner: str
    file: File


class FileStore:
    """Each file is two: its content, and what is known of it, which is written last."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._writing = 0
        """Bytes of files that are not kept yet."""
        self._entries: dict[str, Entry] = {}
        for path in folder.glob("file-*.json"):
            entry = msgspec.json.decode(path.read_bytes(), type=Entry)
            self._entries[entry.file.id] = entry

    async def add(self, owner: str, filename: str, purpose: str, content: bytes) -> File:
        """Keep a file, once it is written; BadRequestError if there is no room for it."""
        held = self._writing + sum(entry.file.bytes for entry in self._entries.values())
        if held + len(content) > self._max_bytes:
            raise BadRequestError(
                f"files hold {held} bytes, {len(content)} more would exceed {self._max_bytes}: "
                "delete some",
                param="file",
            )
        file = File(
            id=f"file-{uuid4().hex}",
            bytes=len(content),
            created_at=int(time.time()),
            filename=filename,
            purpose=purpose,
        )
        entry = Entry(owner, file)
        self._writing += len(content)
        try:
            await asyncio.to_thread(self._write, entry, content)
        finally:
            self._writing -= len(content)
        self._entries[file.id] = entry
        return file

    def all_of(self, owner: str, purpose: str | None) -> list[File]:
        """The owner's files, the latest first."""
        mine = [entry.file for entry in self._entries.values() if entry.owner == owner]
        mine.sort(key=lambda file: file.created_at, reverse=True)
        return [file for file in mine if purpose is None or file.purpose == purpose]

    def get(self, owner: str, file_id: str) -> File:
        """The file; NoSuchFileError if it is gone, or somebody else's."""
        entry = self._entries.get(file_id)
        if entry is None or entry.owner != owner:
            raise NoSuchFileError(f"no file {file_id!r:.80}: see GET /v1/files", param="file_id")
        return entry.file

    def content(self, owner: str, file_id: str) -> bytes:
        """What is in it; raises what `get` raises."""
        return self._data(self.get(owner, file_id).id).read_bytes()

    def delete(self, owner: str, file_id: str) -> None:
        """Forget it; raises what `get` raises."""
        file = self.get(owner, file_id)
        del self._entries[file.id]
        self._facts(file.id).unlink(missing_ok=True)
        self._data(file.id).unlink(missing_ok=True)

    def _write(self, entry: Entry, content: bytes) -> None:
        """On a worker thread."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data(entry.file.id).write_bytes(content)
        self._facts(entry.file.id).write_bytes(msgspec.json.encode(entry))

    def _data(self, file_id: str) -> Path:
        return self._folder / f"{file_id}.data"

    def _facts(self, file_id: str) -> Path:
        return self._folder / f"{file_id}.json"
