"""A step as the scheduler packs it: one buffer of 32-bit words (`StepPlan::pack` writes it)."""

from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from mlxspec.model.kv import Rect, Store

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

HEADER_WORDS = 8
DROP = 1
NO_EDITS: Ints = np.zeros((0, 6), np.uint32)
NO_HARVESTS: Ints = np.zeros((0, 4), np.uint32)


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


class Laid(NamedTuple):
    """The tokens of one forward: rectangles, ids and positions (num_tokens,)."""

    rects: list[Rect]
    tokens: Ints
    positions: Ints

    def later(self, count: int) -> "Laid":
        """The same forward `count` positions further on."""
        return self._replace(positions=self.positions + np.uint32(count))


class DraftPlan(NamedTuple):
    """What the drafter does before the step; arrays are (rows,), over the rows drafted for.

    read: known tokens to read. round: one token per drafting row, as it lies in the second round;
    its ids are what the first one drafted. sampler: each row's index among the samplers.
    num_drafts: drafts to verify, at most num_rounds. read_at: index in `read` of its last known
    token. round_at: of its token in `round`.
    """

    read: Laid
    round: Laid
    sampler: Ints
    num_drafts: Ints
    read_at: Ints
    round_at: Ints
    num_rounds: int

    @property
    def written(self) -> tuple[Ints, Ints]:
        """Which drafts are verified: for each, its row, and its number in the row."""
        nth = np.arange(self.num_rounds, dtype=np.uint32)
        rows, columns = np.nonzero(nth < self.num_drafts[:, None])
        return rows.astype(np.uint32), columns.astype(np.uint32)


class StepPlan(NamedTuple):
    """One step: KV changes to carry out first, then rectangles of tokens, then who samples.

    tokens, positions: (num_tokens,). sampled: (num_sampled,) indices into them, per sampling row
    its last known token and then its drafts. noise_keys: (num_sampled, 2). edits: see `Edits`.
    harvests: (n, 4), of what is gathered of prompts: its key, the index of the first token in the
    step, how many follow each other there, and the position of the first one in its row.
    Tokens that the drafter is to write are 0.
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
    harvests: Ints = NO_HARVESTS
    draft: DraftPlan | None = None


class _Reader:
    """Takes table after table from a buffer; views wherever possible."""

    def __init__(self, words: Ints) -> None:
        self._words = words

    @property
    def is_empty(self) -> bool:
        return len(self._words) == 0

    def take(self, count: int) -> Ints:
        taken, self._words = self._words[:count], self._words[count:]
        return taken

    def table(self, rows: int, columns: int) -> Ints:
        return self.take(rows * columns).reshape(rows, columns)

    def rects(self, count: int) -> list[Rect]:
        return [Rect(*row) for row in self.table(count, 6).tolist()]


def unpack(packed: bytes) -> StepPlan:
    """Read the scheduler's words; views of the buffer wherever possible."""
    reader = _Reader(np.frombuffer(packed, dtype=np.uint32))
    header = reader.take(HEADER_WORDS).tolist()
    model, num_ops, num_rects, num_tokens, num_samplers, num_sampled, num_edits = header[:7]
    num_harvests = header[7]
    kv_ops = reader.table(num_ops, 6)
    rects = reader.rects(num_rects)
    tokens, positions = reader.take(num_tokens), reader.take(num_tokens)
    rows = reader.table(num_samplers, 10)
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
        sampled=reader.take(num_sampled),
        noise_keys=reader.table(num_sampled, 2),
        edits=reader.table(num_edits, 6),
        harvests=reader.table(num_harvests, 4),
        draft=None if reader.is_empty else _unpack_draft(reader),
    )


def _unpack_draft(reader: _Reader) -> DraftPlan:
    """What `DraftPlan::pack` writes."""
    header = reader.take(6).tolist()
    read_rects, num_read, round_rects, num_round, num_rows, num_rounds = header
    read = Laid(reader.rects(read_rects), reader.take(num_read), reader.take(num_read))
    rects, positions = reader.rects(round_rects), reader.take(num_round)
    rows = reader.table(num_rows, 4)
    return DraftPlan(
        read=read,
        round=Laid(rects, np.zeros(num_round, np.uint32), positions),
        sampler=rows[:, 0],
        num_drafts=rows[:, 1],
        read_at=rows[:, 2],
        round_at=rows[:, 3],
        num_rounds=num_rounds,
    )


def apply_kv_ops(store: Store, kv_ops: Ints) -> None:
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


def _apply(store: Store, kv_op: list[int]) -> None:
    match kv_op:
        case [0, slab, slots, capacity, *_]:
            store.create(slab, slots, capacity)
        case [1, slab, *_]:
            store.drop(slab)
        case [_, from_slab, from_slot, to_slab, to_slot, num_tokens]:
            store.copy((from_slab, from_slot), (to_slab, to_slot), num_tokens)
