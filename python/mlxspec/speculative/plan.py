"""A step as the scheduler packs it: one buffer of 32-bit words (`StepPlan::pack` writes it)."""

from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from mlxspec.model.kv import KVStore, Rect

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

HEADER_WORDS = 8
DROP = 1
NO_EDITS: Ints = np.zeros((0, 6), np.uint32)


class Samplers(NamedTuple):
    """How the sampling rows draw; arrays of shape (rows,)."""

    first: Ints
    num_drafts: Ints
    temperature: Floats
    top_p: Floats
    min_p: Floats
    top_k: Ints
    xtc_probability: Floats
    xtc_threshold: Floats
    logprobs: Ints
    """Alternatives to report and one more; 0 reports nothing."""
    constraint: Ints
    """Key of the row's grammar; 0 for none."""

    def of_positions(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The sampling row (num_sampled,) that each sampled position belongs to."""
        return np.repeat(np.arange(len(self.first)), self.num_drafts + 1)

    @classmethod
    def greedy(cls, first: Ints, num_drafts: Ints) -> Self:
        """Rows that take the largest logit."""
        zeros, ones = np.zeros(len(first), np.float32), np.ones(len(first), np.float32)
        none = zeros.astype(np.uint32)
        return cls(first, num_drafts, zeros, ones, zeros, none, zeros, zeros, none, none)


class StepPlan(NamedTuple):
    """One step: KV changes to carry out first, then rectangles of tokens, then who samples.

    tokens, positions: (num_tokens,). sampled: (num_sampled,) indices into them, per sampling row
    its last known token and then its drafts. noise_keys: (num_sampled, 2). edits: see `Edits`.
    """

    model: int
    kv_ops: Ints
    rects: list[Rect]
    tokens: Ints
    positions: Ints
    samplers: Samplers
    sampled: Ints
    noise_keys: Ints
    edits: Ints = NO_EDITS


def unpack(packed: bytes) -> StepPlan:
    """Read the scheduler's words; views of the buffer wherever possible."""
    words = np.frombuffer(packed, dtype=np.uint32)
    model, num_ops, num_rects, num_tokens, num_samplers, num_sampled, num_edits = words[:7].tolist()
    at = HEADER_WORDS

    def table(rows: int, columns: int) -> Ints:
        nonlocal at
        start, at = at, at + rows * columns
        return words[start:at].reshape(rows, columns)

    kv_ops = table(num_ops, 6)
    rects = [Rect(*row) for row in table(num_rects, 6).tolist()]
    tokens = table(num_tokens, 1)[:, 0]
    positions = table(num_tokens, 1)[:, 0]
    rows = table(num_samplers, 10)
    floats = rows.view(np.float32)
    return StepPlan(
        model=model,
        kv_ops=kv_ops,
        rects=rects,
        tokens=tokens,
        positions=positions,
        samplers=Samplers(
            first=rows[:, 0],
            num_drafts=rows[:, 1],
            temperature=floats[:, 2],
            top_p=floats[:, 3],
            min_p=floats[:, 4],
            top_k=rows[:, 5],
            xtc_probability=floats[:, 6],
            xtc_threshold=floats[:, 7],
            logprobs=rows[:, 8],
            constraint=rows[:, 9],
        ),
        sampled=table(num_sampled, 1)[:, 0],
        noise_keys=table(num_sampled, 2),
        edits=table(num_edits, 6),
    )


def apply_kv_ops(store: KVStore, kv_ops: Ints) -> None:
    """Carry out the scheduler's changes of the KV arrays, in order.

    When one fails, for want of memory, nothing more is made or copied, but what is to be dropped
    is dropped all the same: the scheduler counts on it.
    """
    pending = kv_ops.tolist()
    try:
        while pending:
            _apply(store, pending.pop(0))
    except Exception:
        for kind, slab, *_ in pending:
            if kind == DROP:
                store.drop(slab)
        raise


def _apply(store: KVStore, kv_op: list[int]) -> None:
    match kv_op:
        case [0, slab, slots, capacity, *_]:
            store.create(slab, slots, capacity)
        case [1, slab, *_]:
            store.drop(slab)
        case [_, from_slab, from_slot, to_slab, to_slot, num_tokens]:
            store.copy((from_slab, from_slot), (to_slab, to_slot), num_tokens)
