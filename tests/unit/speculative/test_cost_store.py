"""Step costs are found again by the same device and model, and by no other."""

from pathlib import Path

import msgspec
import pytest

from mlxspec.model.backend import BackendFacts
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.cost_store import CostStore, Measured, cost_name

MEASURED = Measured(StepCosts([(1, 2.5), (8, 3.5)], 0.25), compiled=True)
DEVICE = BackendFacts(
    kind="cpu",
    device_name="a processor",
    memory_bytes=1,
    free_memory_bytes=1,
    weight_dtype="float32",
    versions={"mlx": "1"},
)


def model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    store = CostStore(tmp_path / "costs")
    assert store.read("a") is None
    store.write("a", MEASURED)
    store.write("a", MEASURED)
    assert CostStore(tmp_path / "costs").read("a") == MEASURED
    assert store.read("b") is None
    assert [it.name for it in (tmp_path / "costs").iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"costs": [[], 0.0], "compiled": true}',
        b'{"costs": [[[1, -1.0]], 0.0], "compiled": true}',
        b'{"costs": [[[1, 1.0]], 0.0',
    ],
)
def test_a_file_that_makes_no_sense_is_not_there(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert CostStore(tmp_path).read("a") is None


def test_a_folder_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = CostStore(tmp_path / "file")
    store.write("a", MEASURED)
    assert store.read("a") is None


def test_whatever_costs_depend_on_makes_another_name(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one"), model(tmp_path / "two")
    (two / "config.json").write_text('{"hidden_size": 8}')
    newer = msgspec.structs.replace(DEVICE, versions={"mlx": "2"})
    other = msgspec.structs.replace(DEVICE, device_name="another")
    freer = msgspec.structs.replace(DEVICE, free_memory_bytes=2)
    names = [
        cost_name(DEVICE, [one], "exact"),
        cost_name(DEVICE, [one], "padded"),
        cost_name(DEVICE, [two], "exact"),
        cost_name(DEVICE, [one, two], "exact"),
        cost_name(newer, [one], "exact"),
        cost_name(other, [one], "exact"),
    ]
    assert cost_name(freer, [one], "exact") == names[0]
    (one / "model.safetensors").write_bytes(b"other weights")
    names.append(cost_name(DEVICE, [one], "exact"))
    assert len(set(names)) == len(names)
