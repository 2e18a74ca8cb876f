"""All keys in force: finds whose a presented text is, and follows the key file's changes."""

import secrets
import time

import structlog

from mlxspec.api.access.key import ApiKey, digest
from mlxspec.api.access.key_file import KeyFile
from mlxspec.errors import ConfigError

LOOK_SECONDS = 1.0
"""How long a changed key file may go unnoticed."""

logger = structlog.get_logger("mlxspec.access")


class Keyring:
    """For the event loop's thread.

    Without a file the fixed keys stand for ever. A file that breaks while the server runs changes
    nothing: the last good keys stay, so neither everybody nor nobody gets in by accident.
    """

    def __init__(self, file: KeyFile | None, fixed: tuple[ApiKey, ...] = ()) -> None:
        """Raises ConfigError when the file cannot be used."""
        self._file = file
        self._fixed = fixed
        self._stamp = file.stamp() if file else None
        self._keys = fixed + (file.read() if file else ())
        self._next_look = time.monotonic() + LOOK_SECONDS

    def find(self, text: str) -> ApiKey | None:
        """The unexpired key of this text. Takes equally long whichever key it is, if any."""
        self._follow()
        presented = digest(text)
        found: ApiKey | None = None
        for key in self._keys:
            if secrets.compare_digest(presented, key.sha256):
                found = key
        return None if found is None or found.expired(time.time()) else found

    def _follow(self) -> None:
        """Read the file again if it has changed since it was last looked at."""
        now = time.monotonic()
        if self._file is None or now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        if (stamp := self._file.stamp()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = self._fixed + self._file.read()
        except ConfigError as error:
            logger.error("key file not taken, the keys before it stay", reason=error.message)
        else:
            logger.info("key file taken", keys=len(self._keys))
