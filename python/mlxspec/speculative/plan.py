"""A step as the scheduler packs it: one buffer of 32-bit words (`StepPlan::pack` writes it)."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from mlxspec.model.kv import KVStore, Rect

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

HEADER_WORDS = 8


class Samplers(NamedTuple):
    """How the sampling rows draw; arrays of shape (rows,)."""

    first: Ints
    num_drafts: Ints
    temperature: Floats
    top_p: Floats
    min_p: Floats
    top_k: Ints


class StepPlan(NamedTuple):
    """One step: KV changes to carry out first, then rectangles of tokens, then who samples.

    tokens, positions: (num_tokens,). sampled: (num_sampled,) indices into them, per sampling row
    its last known token and then its drafts. noise_keys: (num_sampled, 2).
    """

    model: int
    kv_ops: Ints
    rects: list[Rect]
    tokens: Ints
    positions: Ints
    samplers: Samplers
    sampled: Ints
    noise_keys: Ints


def unpack(packed: bytes) -> StepPlan:
    """Read the scheduler's words; views of the buffer wherever possible."""
    words = np.frombuffer(packed, dtype=np.uint32)
    model, num_ops, num_rects, num_tokens, num_samplers, num_sampled = words[:6].tolist()
    at = HEADER_WORDS

    def table(rows: int, columns: int) -> Ints:
        nonlocal at
        start, at = at, at + rows * columns
        return words[start:at].reshape(rows, columns)

    kv_ops = table(num_ops, 6)
    rects = [Rect(*row) for row in table(num_rects, 6).tolist()]
    tokens = table(num_tokens, 1)[:, 0]
    positions = table(num_tokens, 1)[:, 0]
    rows = table(num_samplers, 6)
    floats = rows.view(np.float32)
    return StepPlan(
        model=model,
        kv_ops=kv_ops,
        rects=rects,
        tokens=tokens,
        positions=positions,
        samplers=Samplers(
            rows[:, 0], rows[:, 1], floats[:, 2], floats[:, 3], floats[:, 4], rows[:, 5]
        ),
        sampled=table(num_sampled, 1)[:, 0],
        noise_keys=table(num_sampled, 2),
    )


def apply_kv_ops(store: KVStore, kv_ops: Ints) -> None:
    """Carry out the scheduler's changes of the KV arrays, in order."""
    for kind, *args in kv_ops.tolist():
        match kind:
            case 0:
                store.create(args[0], args[1], args[2])
            case 1:
                store.drop(args[0])
            case _:
                store.copy((args[0], args[1]), (args[2], args[3]), args[4])
