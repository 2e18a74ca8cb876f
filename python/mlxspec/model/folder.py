"""A model folder on disk: written aside, renamed whole, and checked against its manifest."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mlxspec import __version__
from mlxspec.errors import ModelImportError

MANIFEST_NAME = "mlxspec.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder was made from and what it must hold. `files`: name -> bytes."""

    mlxspec_version: str
    source: str
    source_sha256: str
    dtype: str
    files: dict[str, int]

    @classmethod
    def of(cls, folder: Path, source: str, source_sha256: str, dtype: str) -> "Manifest":
        """Describe `folder` as it is now."""
        return cls(
            mlxspec_version=__version__,
            source=source,
            source_sha256=source_sha256,
            dtype=dtype,
            files={
                str(file.relative_to(folder)): file.stat().st_size
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        )

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of `folder`; None when there is none that can be read."""
        try:
            return msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, folder: Path) -> None:
        """Write the manifest into `folder`."""
        text = msgspec.json.format(msgspec.json.encode(self))
        (folder / MANIFEST_NAME).write_bytes(text)

    def holds(self, folder: Path) -> bool:
        """Whether every file the manifest names is in `folder` with its size."""
        try:
            return all((folder / n).stat().st_size == size for n, size in self.files.items())
        except OSError:
            return False


def is_whole(folder: Path) -> bool:
    """Whether `folder` has a manifest and every file that it names."""
    manifest = Manifest.read(folder)
    return manifest is not None and manifest.holds(folder)


@contextmanager
def assemble(target: Path) -> Iterator[Path]:
    """Give a fresh folder beside `target`, which becomes `target` when the block ends well.

    On any error the folder is removed. Two writers never mix: the second to finish finds `target`
    there and gets ModelImportError.
    """
    if target.exists():
        raise _taken(target)
    aside = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    try:
        aside.mkdir(parents=True)
        yield aside
        aside.rename(target)
    except OSError as error:
        if target.exists():
            raise _taken(target) from None
        raise ModelImportError(f"cannot write {target}: {error.strerror}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _taken(target: Path) -> ModelImportError:
    return ModelImportError(
        f"{target} exists already: remove it with 'mlxspec rm {target.name}' or choose --name"
    )
