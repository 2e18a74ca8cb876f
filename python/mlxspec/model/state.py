"""Rows of models whose state cannot be addressed by position: mlx-lm's own caches, a set per row.

A recurrent state holds all tokens so far and can forget none. So nothing is drafted for such a row,
nothing padded, and no other row begins with a part of it.

    slab 0   slot 0   decoding  \\
             slot 1   decoding   > one batch of mlx-lm's, in the order of the step
             slot 2   decoding  /
             slot 3   reads its prompt, alone

Slots of a slab hold rows of like length, so what a batch pads them to is paid for.
All functions are for the engine thread alone.
"""

from functools import cached_property
from typing import Any, TypeAlias

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

Caches: TypeAlias = list[Any]
"""mlx-lm's caches of one row, or of a batch of them: one per layer."""

SHORTEST_ROW = 256
"""Positions that the shortest row pays for: the part of the state that does not grow is in them."""

GONE = -1


class StateSlab:
    """Rows by slot: those that stand alone, and those that are lines of a batch."""

    def __init__(self) -> None:
        self.alone: dict[int, Caches] = {}
        self._batch: Caches = []
        self._slots: list[int] = []

    def take(self, slot: int) -> Caches:
        """Take a row out, on its own."""
        if slot in self.alone:
            return self.alone.pop(slot)
        line = self._slots.index(slot)
        self._slots[line] = GONE
        return [cache.extract(line) for cache in self._batch]

    def put(self, slot: int, caches: Caches) -> None:
        """Put a row in, on its own; whatever was there is gone."""
        if slot in self._slots:
            self._slots[self._slots.index(slot)] = GONE
        self.alone[slot] = caches

    def batch(self, slots: list[int]) -> Caches:
        """The rows of these slots as one batch, in their order; any other one it had is gone."""
        if slots != self._slots:
            rows = [self.take(slot) for slot in slots]
            self._batch = [type(line[0]).merge(line) for line in zip(*rows, strict=True)]
            self._slots = list(slots)
        return self._batch


class StateStore:
    """All rows of one model, by slab and slot."""

    def __init__(self, model: Module) -> None:
        self._model = model
        self.slabs: dict[int, StateSlab] = {}

    @cached_property
    def bytes_per_token(self) -> int:
        """What a row takes per position: measured, by running the model on a few tokens."""
        return _bytes_per_token(self._model)

    def create(self, slab: int, slots: int, capacity: int) -> None:
        """Make a slab; its rows are made when they get their first token."""
        self.slabs[slab] = StateSlab()

    def drop(self, slab: int) -> None:
        """Free a slab; one that could not be made, or was dropped already, is no error."""
        self.slabs.pop(slab, None)

    def copy(self, source: tuple[int, int], target: tuple[int, int], num_tokens: int) -> None:
        """Move a row (slab, slot), which holds `num_tokens` tokens: it is never copied in part."""
        (from_slab, from_slot), (to_slab, to_slot) = source, target
        if num_tokens:
            self.slabs[to_slab].put(to_slot, self.slabs[from_slab].take(from_slot))

    def row(self, slab: int, slot: int, num_tokens: int) -> Caches:
        """The caches of a row that holds so many tokens, on its own; fresh ones if none."""
        rows = self.slabs[slab]
        rows.put(slot, rows.take(slot) if num_tokens else make_prompt_cache(self._model))
        return rows.alone[slot]

    def batch(self, slab: int, slots: list[int]) -> Caches:
        """The caches of several rows with tokens, as one batch in this order.

        These must be all rows of the slab that decode: any other row of the last batch is gone.
        """
        return self.slabs[slab].batch(slots)


def arrays(caches: Caches) -> list[mx.array]:
    """The arrays of a row or a batch, to be evaluated with what they were made for."""
    leaves: Any = tree_flatten([cache.state for cache in caches if not cache.empty()])
    return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]


def _bytes_per_token(model: Module) -> int:
    """Bytes of a row per position, rounded up: measured on rows of two lengths."""
    first, more = 2, 16
    short, long = (_row_bytes(model, tokens) for tokens in (first, first + more))
    return max(0, -(-(long - short) // more)) + -(-short // SHORTEST_ROW)


def _row_bytes(model: Module, num_tokens: int) -> int:
    caches = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, num_tokens), mx.uint32), cache=caches))
    return sum(array.nbytes for array in arrays(caches))
