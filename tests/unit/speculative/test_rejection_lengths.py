"""Draft lengths follow what came before and what a clock says, and a position's noise is used by
every step that gets to it: the rejection rule keeps whole answers' distribution all the same."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxspec.speculative.rejection import DRAFT_NOISE, judge
from mlxspec.speculative.sample import pick

VOCAB, LENGTH, DRAFTS = 3, 4, 3
ROWS = 60_000
CRITICAL = 150.0
"""Chi-square that 80 degrees of freedom exceed about three times in a million."""

Ints = np.ndarray[Any, np.dtype[np.int64]]
Table = np.ndarray[Any, np.dtype[np.float32]]
Lengths = Callable[[Ints, Ints], Ints]
"""Drafts to verify, of a row whose answer so far (as a number) and whose first draft are these."""


def table(seed: int) -> Table:
    """Log-weights (LENGTH + DRAFTS, answers, VOCAB), by position and answer so far, a number."""
    shape = (LENGTH + DRAFTS, VOCAB ** (LENGTH + DRAFTS - 1), VOCAB)
    return np.random.default_rng(seed).normal(scale=0.8, size=shape).astype(np.float32)


def answers(target: Table, proposed: Table, lengths: Lengths) -> Ints:
    """Many answers as numbers, each with noise of its own."""
    rng = np.random.default_rng(7)
    keys = rng.integers(0, 2**32, size=(ROWS, LENGTH + DRAFTS, 2), dtype=np.uint32)
    length, answer = np.zeros(ROWS, np.int64), np.zeros(ROWS, np.int64)
    while (length < LENGTH).any():
        rows = np.flatnonzero(length < LENGTH)
        at, before = length[rows], answer[rows]
        places = at[:, None] + np.arange(DRAFTS + 1)
        noise, q, drafts = keys[rows[:, None], places], [], []
        histories = [before]
        for nth in range(DRAFTS):
            q.append(proposed[places[:, nth], histories[-1]])
            own = mx.array(noise[:, nth] ^ np.array(DRAFT_NOISE, np.uint32))
            drafts.append(np.array(pick(mx.array(q[-1]), own)))
            histories.append(histories[-1] * VOCAB + drafts[-1])
        p = np.stack([target[places[:, nth], it] for nth, it in enumerate(histories)], axis=1)
        verdict = judge(
            mx.array(p),
            mx.array(np.stack(q, axis=1)),
            mx.array(np.stack(drafts, axis=1)),
            mx.array(lengths(before, drafts[0])),
            mx.array(noise),
        )
        kept, tokens = np.array(verdict.kept), np.array(verdict.tokens)
        for nth in range(DRAFTS + 1):
            more = (nth <= kept) & (length[rows] < LENGTH)
            taken = rows[more]
            answer[taken] = answer[taken] * VOCAB + tokens[more, nth]
            length[taken] += 1
    return answer


def chi_square(target: Table, seen: Ints) -> float:
    probs = np.ones(1)
    for at in range(LENGTH):
        rows = np.exp(target[at, : VOCAB**at].astype(np.float64))
        probs = (probs[:, None] * rows / rows.sum(axis=1, keepdims=True)).reshape(-1)
    expected = ROWS * probs
    assert expected.min() > 5
    return float(((np.bincount(seen, minlength=VOCAB**LENGTH) - expected) ** 2 / expected).sum())


def by_the_past(before: Ints, _draft: Ints) -> Ints:
    """As the tokens so far and a clock say."""
    clock = np.random.default_rng(len(before)).integers(0, DRAFTS + 1, size=len(before))
    return (before + clock) % (DRAFTS + 1)


def by_the_draft(before: Ints, draft: Ints) -> Ints:
    """Wrong: a draft that is not liked is not verified, and drawn again with the same noise."""
    return np.where(draft == 0, 0, by_the_past(before, draft))


@pytest.mark.parametrize("seed", [1, 2])
def test_lengths_that_follow_the_past_change_no_distribution(seed: int) -> None:
    target, proposed = table(seed), table(seed + 10)
    assert chi_square(target, answers(target, proposed, by_the_past)) < CRITICAL


def test_lengths_that_look_at_the_draft_would_be_seen() -> None:
    target, proposed = table(1), table(11)
    assert chi_square(target, answers(target, proposed, by_the_draft)) > 4 * CRITICAL
