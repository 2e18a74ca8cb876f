"""Model files as an attacker would make them: refused with a reason, quickly, by the gate alone.

In CI 3,000 random files, at full size a million.
"""

import json
import random
import struct
import time
from pathlib import Path

import mlx.core as mx
import pytest
from faulty import PARTS, Sized
from mutation import mutate

from mlxspec.errors import MlxspecError
from mlxspec.model.folder_check import check_folder

WEIGHTS_SECONDS = 0.1
CONFIG_SECONDS = 1.0
"""An architecture that is not known is looked for in MLX-LM's source."""
OK = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def with_header(header: bytes, length: int | None = None, data: bytes = bytes(16)) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensors(**changed: object) -> bytes:
    return with_header(json.dumps({"w": OK | changed}).encode())


CRAFTED = {
    "nothing": b"",
    "half a length": bytes(7),
    "a length beyond the file": with_header(b"{}", 1 << 40),
    "a length of all ones": with_header(b"{}", (1 << 64) - 1),
    "no json": with_header(b"not json"),
    "a list": with_header(b"[]"),
    "json that is deep": with_header(b"[" * 100_000),
    "bad utf-8": with_header(b'{"\xff\xfe": 1}'),
    "offsets that end before they begin": tensors(data_offsets=[16, 0]),
    "offsets beyond the file": tensors(data_offsets=[0, 1 << 62], shape=[1 << 60]),
    "offsets that overflow": tensors(data_offsets=[(1 << 64) - 16, (1 << 64) - 1]),
    "a shape that overflows": tensors(shape=[1 << 32, 1 << 32]),
    "a shape that overflows to the right size": tensors(shape=[1 << 63, 2, 4]),
    "a negative shape": tensors(shape=[-2, -2]),
    "a type that does not exist": tensors(dtype="F33"),
    "a type that mlx cannot load": tensors(dtype="F64", shape=[2]),
    "more data than is named": tensors(data_offsets=[0, 8], shape=[2]),
    "a hole between tensors": with_header(
        json.dumps({"a": OK | {"data_offsets": [0, 4], "shape": [1]}, "b": OK}).encode()
    ),
}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model folder whose weights are valid, and few."""
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(tensors())
    check_folder(tmp_path)
    return tmp_path


def is_refused(folder: Path, seconds: float = WEIGHTS_SECONDS) -> bool:
    """Whether the gate refuses the folder with a reason; either way it takes no time."""
    start = time.thread_time()
    reason = None
    try:
        check_folder(folder)
    except MlxspecError as error:
        reason = error.message
    assert time.thread_time() - start < seconds
    assert reason != ""
    return reason is not None


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").write_bytes(CRAFTED[name])
    assert is_refused(folder)


def test_what_passes_the_gate_can_be_loaded(folder: Path, sized: Sized, part: int) -> None:
    file, rng, passed = folder / "model.safetensors", random.Random(11 + part), 0
    valid = file.read_bytes()
    for _ in range(sized(3_000, 1_000_000 // PARTS)):
        file.write_bytes(mutate(rng, valid))
        if not is_refused(folder):
            passed += 1
            arrays = mx.load(str(file))
            assert sum(array.nbytes for array in arrays.values()) <= file.stat().st_size
            mx.eval(arrays)
    assert passed > 10, "nothing got through: the gate was not tried"


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "index"])
def test_a_broken_json_file_is_read_or_refused(
    folder: Path, name: str, sized: Sized, part: int
) -> None:
    names = {"index": "model.safetensors.index.json"}
    file, rng = folder / names.get(name, name), random.Random(12 + part)
    index = json.dumps({"weight_map": {"w": "model.safetensors"}}).encode()
    valid = index if name == "index" else (folder / "config.json").read_bytes()
    for _ in range(sized(300, 100_000 // PARTS)):
        file.write_bytes(mutate(rng, valid))
        is_refused(folder, CONFIG_SECONDS)
