"""Drawn tokens follow the truncated distribution, and depend on nothing but logits and key."""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxspec.speculative import sample
from mlxspec.speculative.sample import Truncation, draw, gumbel

LOGITS = [2.0, 1.5, 1.0, 0.3, 0.0, -0.5, -1.0, -2.0, 0.7, 1.9]


def truncation(
    rows: int, *, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0, top_k: int = 0
) -> Truncation:
    return Truncation(
        mx.full(rows, temperature), mx.full(rows, top_p), mx.full(rows, min_p), mx.full(rows, top_k)
    )


def keys(count: int, seed: int = 0) -> mx.array:
    rng = np.random.default_rng(seed)
    return mx.array(rng.integers(0, 2**32, size=(count, 2), dtype=np.uint32))


def reference_probs(
    logits: list[float], temperature: float, top_p: float, min_p: float, top_k: int
) -> np.ndarray[Any, Any]:
    """The same truncation by sorting, in double precision: temperature, top-k, top-p, min-p."""
    scaled = np.array(logits) / temperature
    order = np.argsort(-scaled, kind="stable")
    keep = np.zeros(len(logits), bool)
    keep[order[: top_k or len(logits)]] = True
    probs = np.where(keep, np.exp(scaled - scaled.max()), 0)
    probs /= probs.sum()
    mass = 0.0
    for token in order:
        if mass >= top_p and token != order[0]:
            keep[token] = False
        mass += probs[token]
    keep &= np.exp(scaled - scaled.max()) >= min_p
    probs = np.where(keep, np.exp(scaled - scaled.max()), 0)
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("temperature", "top_p", "min_p", "top_k"),
    [
        (1.0, 1.0, 0.0, 0),
        (0.7, 1.0, 0.0, 0),
        (1.3, 0.8, 0.0, 0),
        (1.0, 1.0, 0.2, 0),
        (1.0, 1.0, 0.0, 4),
        (0.9, 0.7, 0.1, 6),
    ],
)
def test_drawn_tokens_follow_the_truncated_softmax(
    temperature: float, top_p: float, min_p: float, top_k: int
) -> None:
    draws = 20_000
    rows = mx.broadcast_to(mx.array(LOGITS), (draws, len(LOGITS)))
    limits = truncation(draws, temperature=temperature, top_p=top_p, min_p=min_p, top_k=top_k)
    tokens = np.array(draw(rows, keys(draws), limits, sort=True))
    probs = reference_probs(LOGITS, temperature, top_p, min_p, top_k)
    counts = np.bincount(tokens, minlength=len(LOGITS))
    assert counts[probs == 0].sum() == 0
    expected = draws * probs[probs > 0]
    chi_square = float(((counts[probs > 0] - expected) ** 2 / expected).sum())
    freedom = int((probs > 0).sum()) - 1
    # Mean plus five standard deviations; the seeds are fixed, so this never flickers.
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 1e-9


def test_noise_of_a_row_is_a_function_of_its_key_alone() -> None:
    batch = gumbel(keys(5), 1000)
    for row in range(5):
        alone = gumbel(keys(5)[row : row + 1], 1000)
        assert mx.array_equal(batch[row], alone[0])
    assert not mx.array_equal(batch[0], batch[1])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=12, max_size=12, unique=True),
    st.floats(0.0625, 1.0, width=32),
    st.integers(0, 12),
)
def test_few_candidates_decide_as_the_whole_vocabulary_does(
    logits: list[float], top_p: float, top_k: int
) -> None:
    row = mx.array([logits])
    limits = truncation(1, top_p=top_p, top_k=top_k)
    whole, _ = sample._floor_among(row, row, limits)
    best = mx.array([sorted(logits, reverse=True)[:4]])
    few, decided = sample._floor_among(best, row, limits)
    if decided.item():
        assert abs(few.item() - whole.item()) < 1e-6 or few.item() == whole.item()
    probs = reference_probs(logits, 1.0, top_p, 0.0, top_k)
    kept = np.array(logits) >= whole.item()
    mass = np.sort(np.exp(logits - np.max(logits)))[::-1]
    borders = np.abs(np.cumsum(mass[: top_k or 12]) / mass[: top_k or 12].sum() - top_p)
    if borders.min() > 1e-5:  # at the border itself, rounding may fall either way
        assert (kept == (probs > 0)).all()


def test_a_vocabulary_larger_than_the_candidates_keeps_a_flat_tail_under_top_p() -> None:
    vocab = 3 * sample.NUM_CANDIDATES
    logits = mx.zeros((200, vocab)) - 1e-6 * mx.arange(vocab)
    tokens = draw(logits, keys(200), truncation(200, top_p=0.9), sort=True)
    assert int(tokens.max().item()) > sample.NUM_CANDIDATES
    assert int(tokens.max().item()) < 0.91 * vocab
