"""A file appears whole or not at all."""

import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path` and put that in its place, so that no reader sees half of it.

    Readable by the owner alone. Its folder must be there. Raises OSError, and then leaves nothing
    behind.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        aside = Path(file.name)  # made with mode 0600
        try:
            file.write(content)
            file.close()
            aside.replace(path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
