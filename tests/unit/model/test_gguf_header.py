"""The strict GGUF header reader: what it reads, what it refuses, and that nothing else escapes."""

import struct
import time
from contextlib import suppress

import pytest
from gguf_writer import ARRAY, BOOL, F32, TEXT, U32, U64, GgufFile, TensorEntry, tiny_file
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxspec.errors import ModelImportError
from mlxspec.model.gguf_config import plan_weights, read_config
from mlxspec.model.gguf_header import read_header
from mlxspec.model.gguf_metadata import Metadata
from mlxspec.model.gguf_tokenizer import build_tokenizer

ONE_TENSOR = TensorEntry("x", [4, 2], 0, bytes(32))


def read(file: GgufFile):
    return read_header(memoryview(file.to_bytes()))


def refused(file: GgufFile) -> str:
    with pytest.raises(ModelImportError) as caught:
        read(file)
    return caught.value.message


def test_a_valid_header_gives_metadata_and_places_of_tensors():
    file = GgufFile(
        metadata={
            "a": (U32, 7), "b": (F32, 0.5), "c": (TEXT, "ö"), "d": (ARRAY, (TEXT, ["x", ""])),
            "e": (ARRAY, (U32, [1, 2])), "f": (BOOL, True), "g": (U64, 1 << 40),
        },
        tensors=[ONE_TENSOR, TensorEntry("y", [32], 8, b"\x01" * 34)],
    )  # fmt: skip
    header = read(file)
    assert header.metadata == {
        "a": 7, "b": 0.5, "c": "ö", "d": ["x", ""], "e": [1, 2], "f": True, "g": 1 << 40,
    }  # fmt: skip
    data, y = file.to_bytes(), header.tensors["y"]
    assert header.tensors["x"].shape == (2, 4)
    assert data[y.start : y.start + y.num_bytes] == b"\x01" * 34


def test_version_2_and_other_alignments_are_read():
    file = GgufFile(metadata={"general.alignment": (U32, 64)}, tensors=[ONE_TENSOR], alignment=64)
    file.version = 2
    assert read(file).tensors["x"].start % 64 == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"magic": b"GGML"}, "does not begin with 'GGUF'"),
        ({"version": 1}, "gguf version 1"),
        ({"version": 0x03000000}, "gguf version"),
        ({"num_tensors": 2}, "0 dimensions"),
        ({"num_tensors": (1 << 64) - 1}, "0 dimensions"),
        ({"num_pairs": (1 << 64) - 1}, "key"),
        ({"metadata": {"general.alignment": (U32, 0)}}, "general.alignment is 0"),
        ({"metadata": {"general.alignment": (U32, 24)}}, "general.alignment is 24"),
        ({"metadata": {"general.alignment": (TEXT, "32")}}, "general.alignment is '32'"),
    ],
)
def test_false_preambles_are_refused(change: dict, said: str):
    file = GgufFile(metadata={}, tensors=[ONE_TENSOR])
    vars(file).update(change)
    assert said in refused(file)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (TensorEntry("x", [], 0, b""), "0 dimensions"),
        (TensorEntry("x", [1] * 5, 0, bytes(4)), "5 dimensions"),
        (TensorEntry("x", [0], 0, b""), "not whole F32"),
        (TensorEntry("x", [33], 8, bytes(34)), "not whole Q8_0"),
        (TensorEntry("x", [1 << 63, 1 << 63], 0, bytes(32)), "ends at"),
        (TensorEntry("x", [9], 0, bytes(32)), "ends at"),
        (TensorEntry("x", [8], 0, bytes(32), offset=1 << 63), "ends at"),
        (TensorEntry("x", [8], 0, bytes(32), offset=4), "not a multiple of 32"),
        (TensorEntry("x", [256], 10, bytes(84)), "quantisation type 10"),
        (TensorEntry("x", [8], 1 << 31, bytes(32)), "quantisation type"),
    ],
)
def test_false_tensors_are_refused(entry: TensorEntry, said: str):
    assert said in refused(GgufFile(metadata={}, tensors=[entry]))


def test_overlapping_tensors_are_refused():
    second = TensorEntry("y", [4, 2], 0, bytes(32), offset=0)
    assert "overlaps" in refused(GgufFile(metadata={}, tensors=[ONE_TENSOR, second]))


def test_a_tensor_that_stands_twice_is_refused():
    assert "twice" in refused(GgufFile(metadata={}, tensors=[ONE_TENSOR, ONE_TENSOR]))


def raw_pair(body: bytes) -> memoryview:
    """A file with one metadata pair whose key is `k` and whose type and value are `body`."""
    return memoryview(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (struct.pack("<I", 13) + bytes(8), "unknown type 13"),
        (struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(16), "unknown type 9"),
        (struct.pack("<IIQ", ARRAY, U32, 1 << 62), "items, the limit"),
        (struct.pack("<IIQ", ARRAY, U32, 1 << 20), "needs 4194304 bytes"),
        (struct.pack("<IIQ", ARRAY, TEXT, 1 << 20), "0 are left"),
        (struct.pack("<IQ", TEXT, 1 << 62), "the limit"),
        (struct.pack("<IQ", TEXT, 2) + b"\xff\xff", "not utf-8"),
    ],
)
def test_false_values_are_refused(body: bytes, said: str):
    with pytest.raises(ModelImportError, match=said):
        read_header(raw_pair(body))


def test_a_key_that_stands_twice_is_refused():
    pair = struct.pack("<Q", 1) + b"k" + struct.pack("<IB", 0, 1)
    with pytest.raises(ModelImportError, match="twice"):
        read_header(memoryview(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair + pair))


def test_every_truncation_of_a_header_is_refused():
    whole = GgufFile(metadata={"a": (TEXT, "text")}, tensors=[ONE_TENSOR]).to_bytes()
    for length in range(len(whole)):
        with pytest.raises(ModelImportError):
            read_header(memoryview(whole[:length]))


VALID = tiny_file().to_bytes()
HEAD_BYTES = 6000


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, HEAD_BYTES), st.binary(min_size=1, max_size=8)), max_size=4
    ),
    length=st.one_of(st.none(), st.integers(0, HEAD_BYTES)),
)
def test_mutated_files_raise_nothing_but_import_errors(
    changes: list[tuple[int, bytes]], length: int | None
):
    data = bytearray(VALID)
    for position, replacement in changes:
        data[position : position + len(replacement)] = replacement
    begin = time.perf_counter()
    with suppress(ModelImportError):
        header = read_header(memoryview(bytes(data[:length])))
        ends = [tensor.start + tensor.num_bytes for tensor in header.tensors.values()]
        assert max(ends, default=0) <= len(data)
        plan_weights(header, read_config(header))
        build_tokenizer(Metadata(header.metadata))
    assert time.perf_counter() - begin < 2


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_after_the_preamble_raise_nothing_but_import_errors(tail: bytes):
    data = memoryview(b"GGUF" + struct.pack("<I", 3) + tail)
    with suppress(ModelImportError):
        read_header(data)
