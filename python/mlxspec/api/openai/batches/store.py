"""Batches in a folder, for each key apart: what is unfinished outlives the server."""

from pathlib import Path

import msgspec
from msgspec import Struct

from mlxspec.api.openai.batches.schema import Batch
from mlxspec.errors import MlxspecError
from mlxspec.whole_file import write_whole

OPEN = frozenset({"in_progress", "cancelling"})


class NoSuchBatchError(MlxspecError):
    """No such batch is known for this key."""

    status = 404
    type = "invalid_request_error"
    code = "batch_not_found"


class Entry(Struct, frozen=True):
    """A batch and whose it is."""

    owner: str
    batch: Batch


class BatchStore:
    """For the event loop's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[str, Entry] = {}
        for path in folder.glob("batch_*.json"):
            entry = msgspec.json.decode(path.read_bytes(), type=Entry)
            self._entries[entry.batch.id] = entry

    def put(self, owner: str, batch: Batch) -> Batch:
        """Keep it as it is now."""
        entry = self._entries[batch.id] = Entry(owner, batch)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._folder / f"{batch.id}.json", msgspec.json.encode(entry))
        return batch

    def get(self, owner: str, batch_id: str) -> Batch:
        """The batch; NoSuchBatchError if there is none, or it is somebody else's."""
        entry = self._entries.get(batch_id)
        if entry is None or entry.owner != owner:
            raise NoSuchBatchError(f"no batch {batch_id!r:.80}: see GET /v1/batches")
        return entry.batch

    def all_of(self, owner: str) -> list[Batch]:
        """The owner's batches, the latest first."""
        mine = [entry.batch for entry in self._entries.values() if entry.owner == owner]
        return sorted(mine, key=lambda batch: batch.created_at, reverse=True)

    def unfinished(self) -> list[Entry]:
        """Everybody's batches that are still to be worked on, the oldest first."""
        left = [entry for entry in self._entries.values() if entry.batch.status in OPEN]
        return sorted(left, key=lambda entry: entry.batch.created_at)
