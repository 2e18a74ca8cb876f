"""The file of API keys: hashes only, readable by its owner alone, replaced as a whole."""

import os
import stat
from pathlib import Path

import msgspec
from msgspec import Struct

from mlxspec.api.access.key import ApiKey
from mlxspec.errors import ConfigError
from mlxspec.whole_file import write_whole


class _Content(Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[ApiKey, ...]


class KeyFile:
    """Keys at one path. Blocking; whoever writes last wins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[ApiKey, ...]:
        """All keys; ConfigError if the file is absent, open to others, or not of ours."""
        try:
            with self.path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                raw = file.read()
        except OSError as error:
            raise ConfigError(f"cannot read the key file {self.path}: {error.strerror}") from None
        if mode & 0o077:
            raise ConfigError(
                f"the key file {self.path} has mode {mode:o}, so others can reach it: "
                f"chmod 600 {self.path}"
            )
        try:
            return msgspec.json.decode(raw, type=_Content).keys
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"the key file {self.path}: {error}") from None

    def write(self, keys: tuple[ApiKey, ...]) -> None:
        """Replace all keys at once, so that no reader sees half of them."""
        content = msgspec.json.format(msgspec.json.encode(_Content(keys)), indent=2)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, content + b"\n")
        except OSError as error:
            raise ConfigError(f"cannot write the key file {self.path}: {error.strerror}") from None

    def stamp(self) -> tuple[int, int, int] | None:
        """Changes whenever the file does; None when there is none."""
        try:
            seen = self.path.stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_ino, seen.st_mode
