"""The numbers inside GGUF tensors: each stored kind back to floating point, as array operations.

Layouts are those of the GGUF format: a block holds its scale (and minimum) beside its small
integers. All arithmetic is float32; only the result is cast.
"""

from collections.abc import Callable
from typing import Final

import mlx.core as mx

from mlxspec.model.gguf_header import Tensor


def dequantise(data: memoryview, tensor: Tensor, dtype: mx.Dtype) -> mx.array:
    """Decode one tensor of the file whose bytes are `data`.

    Returns an evaluated array of `tensor.shape` and `dtype`; peak memory is about four times the
    float32 size of this one tensor. `tensor` must come from `read_header` of the same bytes.
    """
    piece = data[tensor.start : tensor.start + tensor.num_bytes]
    raw = mx.array(piece)  # type: ignore[arg-type]  # any buffer will do; the stub omits it
    blocks = raw.reshape(-1, tensor.kind.block_bytes)
    values = _DECODERS[tensor.kind.name](blocks).reshape(tensor.shape).astype(dtype)
    mx.eval(values)
    return values


def _half(two_bytes: mx.array) -> mx.array:
    """(n, 2k) bytes -> (n, k) float32, read as float16."""
    return mx.contiguous(two_bytes).view(mx.float16).astype(mx.float32)


def _signed(one_byte: mx.array) -> mx.array:
    return mx.contiguous(one_byte).view(mx.int8).astype(mx.float32)


def _nibbles(packed: mx.array) -> mx.array:
    """(..., k) bytes -> (..., 2k): all low halves, then all high halves."""
    return mx.concatenate([packed & 15, packed >> 4], axis=-1)


def _f32(blocks: mx.array) -> mx.array:
    return blocks.view(mx.float32)


def _f16(blocks: mx.array) -> mx.array:
    return blocks.view(mx.float16)


def _bf16(blocks: mx.array) -> mx.array:
    return blocks.view(mx.bfloat16)


def _q4_0(blocks: mx.array) -> mx.array:
    return (_nibbles(blocks[:, 2:]).astype(mx.float32) - 8) * _half(blocks[:, :2])


def _q4_1(blocks: mx.array) -> mx.array:
    scale, minimum = _half(blocks[:, :2]), _half(blocks[:, 2:4])
    return _nibbles(blocks[:, 4:]).astype(mx.float32) * scale + minimum


def _q8_0(blocks: mx.array) -> mx.array:
    return _signed(blocks[:, 2:]) * _half(blocks[:, :2])


def _k_scales(packed: mx.array) -> tuple[mx.array, mx.array]:
    """Unpack 12 bytes into 8 six-bit scales and 8 six-bit minimums, each (n, 8, 1) float32.

    The first four of each are the low six bits of bytes 0-3 and 4-7; the last four take their low
    nibbles from bytes 8-11 and their two high bits from the top of bytes 0-3 and 4-7.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = mx.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minimums = mx.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales.astype(mx.float32)[..., None], minimums.astype(mx.float32)[..., None]


def _k_values(blocks: mx.array, quants: mx.array) -> mx.array:
    """Apply a block's scales to (n, 8, 32) small integers."""
    scales, minimums = _k_scales(blocks[:, 4:16])
    scale, minimum = _half(blocks[:, :2])[..., None], _half(blocks[:, 2:4])[..., None]
    return scale * scales * quants.astype(mx.float32) - minimum * minimums


def _q4_k(blocks: mx.array) -> mx.array:
    quants = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return _k_values(blocks, quants)


def _q5_k(blocks: mx.array) -> mx.array:
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    bit = mx.arange(8, dtype=mx.uint8)[None, :, None]
    high = (blocks[:, None, 16:48] >> bit) & 1
    return _k_values(blocks, low | (high << 4))


def _q6_k(blocks: mx.array) -> mx.array:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shift = mx.array([0, 2, 4, 6], dtype=mx.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shift) & 3
    quants = (low | (high << 4)).astype(mx.float32).reshape(-1, 16, 16) - 32
    scales = _signed(blocks[:, 192:208])[..., None] * _half(blocks[:, 208:])[..., None]
    return quants * scales


_DECODERS: Final[dict[str, Callable[[mx.array], mx.array]]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
