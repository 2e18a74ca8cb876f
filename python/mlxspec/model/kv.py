"""KV memory: slabs of dense rows, written in place, each row at its own position.

A slab holds, per layer, keys and values of shape (slots, kv_heads, capacity, head_dim), or their
quantised form (`kv_form`). Which slab
exists, and whose row is where, is decided by the scheduler; here it is only carried out. A row's
valid part is `[0, position)`: whatever lies behind is stale (rejected drafts, padding), always
finite, masked by attention and overwritten later, so a rejected draft costs no roll-back.

Writes are in place because no other reference to the arrays is kept: never alias them.
All functions are for the engine thread alone.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import mlx.core as mx

from mlxspec._scheduler import BLOCK_TOKENS
from mlxspec.model.kv_form import LayerShape, Stored, zeros

ALL_LAYERS = slice(None)


class Form(NamedTuple):
    """An array's shape and type."""

    shape: tuple[int, ...]
    dtype: mx.Dtype


class Rect(NamedTuple):
    """`rows` neighbouring rows of a slab times `width` new tokens, as the scheduler packs them."""

    slab: int
    slot: int
    rows: int
    width: int
    first: int
    view: int

    @property
    def stop(self) -> int:
        return self.first + self.rows * self.width


class Slab:
    """Equally long KV rows: per layer, keys and values of (slots, kv_heads, capacity, dim)."""

    def __init__(
        self, layers: Sequence[LayerShape], keys: list[Stored], values: list[Stored]
    ) -> None:
        self.layers = layers
        self.keys = keys
        self.values = values

    @classmethod
    def zeros(cls, layers: Sequence[LayerShape], slots: int, capacity: int) -> "Slab":
        """Fresh rows: finite everywhere, as a NaN in a masked position would poison attention."""
        return cls(
            layers,
            [zeros(it, it.key_dim, slots, capacity) for it in layers],
            [zeros(it, it.value_dim, slots, capacity) for it in layers],
        )

    @property
    def slots(self) -> int:
        return int(self.keys[0][0].shape[0])

    def arrays(self, layers: slice = ALL_LAYERS) -> list[mx.array]:
        """The arrays of these layers; position is their third axis."""
        return [array for stored in self.keys[layers] + self.values[layers] for array in stored]


class Store(Protocol):
    """Where a model's rows lie, changed as the scheduler says. Engine thread only."""

    def create(self, slab: int, slots: int, capacity: int) -> None: ...
    def drop(self, slab: int) -> None: ...
    def copy(self, source: tuple[int, int], target: tuple[int, int], num_tokens: int) -> None: ...


class KVStore:
    """All slabs of one model."""

    def __init__(self, layers: Sequence[LayerShape]) -> None:
        self.layers = tuple(layers)
        self.slabs: dict[int, Slab] = {}

    @property
    def bytes_per_token(self) -> int:
        return sum(layer.bytes_per_token for layer in self.layers)

    def create(self, slab: int, slots: int, capacity: int) -> None:
        """Allocate a slab; its id must be new. A row has whole blocks, as the scheduler counts.

        Kernels may therefore read a block at once: behind a row's capacity there are zeros.
        """
        assert slab not in self.slabs
        whole = -(-capacity // BLOCK_TOKENS) * BLOCK_TOKENS
        self.slabs[slab] = Slab.zeros(self.layers, slots, whole)

    def drop(self, slab: int) -> None:
        """Free a slab; one that could not be made, or was dropped already, is no error."""
        self.slabs.pop(slab, None)

    def copy(self, source: tuple[int, int], target: tuple[int, int], num_tokens: int) -> None:
        """Copy the first `num_tokens` positions of row (slab, slot) `source` into row `target`."""
        (from_slab, from_slot), (to_slab, to_slot) = source, target
        if num_tokens == 0:
            return
        for old, new in zip(
            self.slabs[from_slab].arrays(), self.slabs[to_slab].arrays(), strict=True
        ):
            head = old[from_slot, :, :num_tokens]
            if old is new:
                # A slice refers to its array, which could then not be written in place.
                head = mx.contiguous(head)
                mx.eval(head)
            new[to_slot, :, :num_tokens] = head
        mx.eval(self.slabs[to_slab].arrays())

    def piece(self, row: tuple[int, int], start: int, stop: int, layers: slice) -> list[mx.array]:
        """A copy of these positions of row (slab, slot) in these layers."""
        slab, slot = row
        arrays = self.slabs[slab].arrays(layers)
        copies = [mx.contiguous(array[slot, :, start:stop]) for array in arrays]
        mx.eval(copies)
        return copies

    def piece_forms(self, slab: int, num_tokens: int, layers: slice) -> list[Form]:
        """What the arrays of a piece are like: (kv_heads, num_tokens, dim) each."""
        arrays = self.slabs[slab].arrays(layers)
        return [Form((it.shape[1], num_tokens, it.shape[3]), it.dtype) for it in arrays]

    def fill(
        self, row: tuple[int, int], start: int, layers: slice, piece: Sequence[mx.array]
    ) -> None:
        """Put a piece, or its end, into row (slab, slot) from `start` on."""
        slab, slot = row
        arrays = self.slabs[slab].arrays(layers)
        for array, new in zip(arrays, piece, strict=True):
            array[slot, :, start : start + new.shape[1]] = new
        mx.eval(arrays)


def write(stored: Stored, rect: Rect, start: int | None, index: mx.array, new: Stored) -> Stored:
    """Write a rectangle's new keys or values; returns what to keep in place of `stored`.

    stored: arrays (slots, kv_heads, capacity, dim). new: the same of (rows, kv_heads, width, dim).
    index: (rows, 1, width, 1), all positions. start: the first of them, where it is known as a
    number; one row is then written as a slice.
    """
    pairs = zip(stored, new, strict=True)
    return tuple(_write(array, rect, start, index, part) for array, part in pairs)


def _write(
    slab_array: mx.array, rect: Rect, start: int | None, index: mx.array, new: mx.array
) -> mx.array:
    if rect.rows == 1 and start is not None:
        slab_array[rect.slot : rect.slot + 1, :, start : start + rect.width] = new
        return slab_array
    if rect.rows == slab_array.shape[0]:
        return mx.put_along_axis(slab_array, index, new, axis=2)
    # Part of a slab: advanced indices 0 and 2 around a slice come first in the result's shape.
    slots = mx.arange(rect.slot, rect.slot + rect.rows)[:, None]
    slab_array[slots, :, index[:, 0, :, 0]] = new.transpose(0, 2, 1, 3)
    return slab_array
