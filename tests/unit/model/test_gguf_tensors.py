"""Each stored kind is decoded as its layout says: checked against plain scalar code."""

import struct

import mlx.core as mx
import numpy as np
import pytest

from mlxspec.model.gguf_header import KINDS, Tensor, TensorKind
from mlxspec.model.gguf_tensors import dequantise

HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def half(block: bytes, offset: int) -> float:
    return struct.unpack_from("<e", block, offset)[0]


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def k_scale(block: bytes, index: int) -> tuple[int, int]:
    """Six-bit scale and minimum of one of the eight parts of a K block."""
    packed = block[4:16]
    if index < 4:
        return packed[index] & 63, packed[index + 4] & 63
    low, top = packed[index + 4], (packed[index - 4] >> 6, packed[index] >> 6)
    return (low & 15) | top[0] << 4, (low >> 4) | top[1] << 4


def k_value(block: bytes, at: int, quants: int, high: int | None) -> float:
    part, within = divmod(at, 32)
    byte = block[quants + part // 2 * 32 + within]
    quant = byte >> 4 if part % 2 else byte & 15
    if high is not None:
        quant += (block[high + within] >> part & 1) << 4
    scale, minimum = k_scale(block, part)
    return half(block, 0) * scale * quant - half(block, 2) * minimum


def q6_k_value(block: bytes, at: int) -> float:
    half_block, rest = divmod(at, 128)
    quarter, within = divmod(rest, 32)
    low = block[half_block * 64 + quarter % 2 * 32 + within]
    low = low >> 4 if quarter >= 2 else low & 15
    high = block[128 + half_block * 32 + within] >> (2 * quarter) & 3
    scale = signed(block[192 + at // 16])
    return half(block, 208) * scale * ((low | high << 4) - 32)


def nibble(block: bytes, start: int, at: int) -> int:
    return block[start + at % 16] >> 4 if at >= 16 else block[start + at % 16] & 15


def scalar(kind: str, block: bytes, at: int) -> float:
    """Value number `at` of one block."""
    match kind:
        case "F32":
            return struct.unpack("<f", block)[0]
        case "F16":
            return half(block, 0)
        case "BF16":
            return struct.unpack("<f", b"\0\0" + block)[0]
        case "Q4_0":
            return half(block, 0) * (nibble(block, 2, at) - 8)
        case "Q4_1":
            return half(block, 0) * nibble(block, 4, at) + half(block, 2)
        case "Q8_0":
            return half(block, 0) * signed(block[2 + at])
        case "Q4_K":
            return k_value(block, at, quants=16, high=None)
        case "Q5_K":
            return k_value(block, at, quants=48, high=16)
        case _:
            return q6_k_value(block, at)


def random_blocks(kind: TensorKind, num_blocks: int) -> np.ndarray:
    """Random bytes whose floating-point parts are ordinary numbers."""
    random = np.random.default_rng(7)
    if kind.block_values == 1:
        values = random.normal(size=(num_blocks, 1)).astype("<f2" if kind.name == "F16" else "<f4")
        return values.view(np.uint8)[:, -kind.block_bytes :]
    raw = random.integers(0, 256, (num_blocks, kind.block_bytes), dtype=np.uint8)
    for offset in HALVES[kind.name]:
        scales = random.normal(0, 0.1, (num_blocks, 1)).astype("<f2")
        raw[:, offset : offset + 2] = scales.view(np.uint8)
    return raw


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_tensor_decodes_to_what_its_layout_says(kind: TensorKind):
    blocks = random_blocks(kind, 6)
    tensor = Tensor("x", kind, (2, 3 * kind.block_values), 5, blocks.size)
    found = dequantise(memoryview(b"\xff" * 5 + blocks.tobytes()), tensor, mx.float32)
    expected = [
        scalar(kind.name, row.tobytes(), at) for row in blocks for at in range(kind.block_values)
    ]
    assert found.shape == tensor.shape
    np.testing.assert_allclose(np.array(found).ravel(), expected, rtol=1e-5, atol=1e-6)


def test_the_result_has_the_type_asked_for():
    tensor = Tensor("x", KINDS[0], (4,), 0, 16)
    assert dequantise(memoryview(bytes(16)), tensor, mx.bfloat16).dtype == mx.bfloat16
