"""How keys and values lie in memory: as they are, or in groups of 8 or 4 bits, as mlx-lm has it.

A group of `group_size` neighbouring numbers of one head at one position shares a scale and a bias;
`mx.quantize` rounds each to one of 2**bits steps between them. Every reader gets the rounded
numbers, those of the token itself included, so a token's KV does not depend on when it is read.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import mlx.core as mx

from mlxspec.errors import ModelImportError

Stored: TypeAlias = tuple[mx.array, ...]
"""One layer's keys or values: the array itself, or codes, scales and biases. Axis 2 is position."""

GROUP_SIZES: Final = (64, 32)


class Groups(NamedTuple):
    """How numbers are rounded: bits of each, and how many share a scale."""

    bits: int
    size: int

    def bytes_of(self, dim: int, dtype: mx.Dtype) -> int:
        """Bytes of `dim` numbers that were of this type."""
        return dim * self.bits // 8 + 2 * (dim // self.size) * dtype.size


class LayerShape(NamedTuple):
    """One layer's KV: heads and head sizes of keys and values, their type, and their groups."""

    num_heads: int
    key_dim: int
    value_dim: int
    dtype: mx.Dtype
    groups: Groups | None = None

    @property
    def bytes_per_token(self) -> int:
        if self.groups is None:
            return self.num_heads * (self.key_dim + self.value_dim) * self.dtype.size
        dims = (self.key_dim, self.value_dim)
        return self.num_heads * sum(self.groups.bytes_of(dim, self.dtype) for dim in dims)


def quantised(layers: Sequence[LayerShape], bits: int | None) -> list[LayerShape]:
    """The same layers with their KV in so many bits; None leaves them as they are.

    Raises ModelImportError where a head has no whole number of groups, and without layers: such a
    model keeps its state in mlx-lm's own caches.
    """
    if bits is None:
        return list(layers)
    if not layers:
        raise ModelImportError(
            f"this model's state is more than keys and values and cannot be kept in {bits} bits: "
            "serve the model without kv_bits"
        )
    return [layer._replace(groups=Groups(bits, _group_size(layer, bits))) for layer in layers]


def _group_size(layer: LayerShape, bits: int) -> int:
    for size in GROUP_SIZES:
        if layer.key_dim % size == 0 and layer.value_dim % size == 0:
            return size
    raise ModelImportError(
        f"heads of {layer.key_dim} and {layer.value_dim} cannot be kept in {bits} bits, "
        f"which needs multiples of {GROUP_SIZES[-1]}: serve the model without kv_bits"
    )


def zeros(layer: LayerShape, dim: int, slots: int, capacity: int) -> Stored:
    """Fresh keys or values, finite everywhere."""
    groups, rows = layer.groups, (slots, layer.num_heads, capacity)
    if groups is None:
        return (mx.zeros((*rows, dim), layer.dtype),)
    codes = mx.zeros((*rows, dim * groups.bits // 32), mx.uint32)
    return (codes, *(mx.zeros((*rows, dim // groups.size), layer.dtype) for _ in range(2)))


def encode(numbers: mx.array, groups: Groups | None) -> Stored:
    """Numbers (..., dim) as they are to be stored."""
    if groups is None:
        return (numbers,)
    codes, scales, biases = mx.quantize(numbers, group_size=groups.size, bits=groups.bits)
    return (codes, scales, biases)


def decode(stored: Stored, groups: Groups | None) -> mx.array:
    """The numbers (..., dim) that are stored; lazily."""
    if groups is None:
        return stored[0]
    codes, scales, biases = stored
    return mx.dequantize(codes, scales, biases, group_size=groups.size, bits=groups.bits)
