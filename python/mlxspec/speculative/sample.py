"""Drawing tokens with noise that belongs to (seed, position), not to the call.

One order everywhere: edits (`edits.py`), temperature, top-k, top-p, min-p, XTC, then the Gumbel-max
trick (argmax of logit + Gumbel noise draws from the softmax). Greedy is noise 0.
"""

from typing import NamedTuple

import mlx.core as mx

NUM_CANDIDATES = 1024
"""Tokens sorted for top-p and top-k before the whole vocabulary is."""


XTC_NOISE = (0x58544331, 0x9E3779B9)
"""Turns a position's noise key into another one: XTC must not look at the draw's own noise."""


class Truncation(NamedTuple):
    """Per drawn position, arrays of shape (rows,): what of the distribution to keep."""

    temperature: mx.array
    top_p: mx.array
    min_p: mx.array
    top_k: mx.array


class Xtc(NamedTuple):
    """Exclude top choices, as mlx-lm does.

    probability, threshold: (rows,). spared: (rows, vocab) bool, tokens that stay; None: no token.
    """

    probability: mx.array
    threshold: mx.array
    spared: mx.array | None


def gumbel(keys: mx.array, vocab: int) -> mx.array:
    """Standard Gumbel noise (rows, vocab), each row a function of its key alone.

    keys: (rows, 2) uint32.
    """

    def one(key: mx.array) -> mx.array:
        return mx.random.gumbel((vocab,), key=key)

    noise: mx.array = mx.vmap(one)(keys)
    return noise


def uniform(keys: mx.array) -> mx.array:
    """Uniform noise in [0, 1), (rows,), each row a function of its key (rows, 2) alone."""

    def one(key: mx.array) -> mx.array:
        return mx.random.uniform(key=key)

    noise: mx.array = mx.vmap(one)(keys)
    return noise


def draw(
    logits: mx.array,
    keys: mx.array,
    truncation: Truncation,
    *,
    sort: bool,
    xtc: Xtc | None = None,
    exact: bool = True,
) -> mx.array:
    """Draw one token per row: (rows,) uint32. See `weigh` for the arguments."""
    return pick(weigh(logits, keys, truncation, sort=sort, xtc=xtc, exact=exact), keys)


def pick(weights: mx.array, keys: mx.array) -> mx.array:
    """Draw one token per row (rows,) uint32 from the softmax of `weights` (rows, vocab)."""
    return mx.argmax(weights + gumbel(keys, weights.shape[-1]), axis=-1).astype(mx.uint32)


def weigh(
    logits: mx.array,
    keys: mx.array,
    truncation: Truncation,
    *,
    sort: bool,
    xtc: Xtc | None = None,
    exact: bool = True,
) -> mx.array:
    """Logarithms of what each token weighs in a draw: (rows, vocab) float32.

    Tokens that are cut off weigh nothing: negative infinity.

    logits: (rows, vocab), any float type. keys: (rows, 2) uint32. temperature > 0 in every row.
    sort: whether any row truncates by top-k or top-p. xtc: None where no row asks for it.
    exact: whether to look if the candidates suffice to truncate by, which synchronises; a draft may
    do without.
    """
    scaled = logits.astype(mx.float32) / truncation.temperature[:, None]
    floor = scaled.max(axis=-1) + mx.log(truncation.min_p)
    if sort:
        floor = mx.maximum(floor, _sorted_floor(scaled, truncation, exact=exact))
    kept = mx.where(scaled >= floor[:, None], scaled, -mx.inf)
    return kept if xtc is None else _without_top_choices(kept, keys, xtc)


def _without_top_choices(scaled: mx.array, keys: mx.array, xtc: Xtc) -> mx.array:
    """With XTC's probability, only the least likely of the tokens above its threshold stays."""
    probs = mx.softmax(scaled, axis=-1)
    top = probs > xtc.threshold[:, None]
    least = mx.where(top, probs, mx.inf).min(axis=-1, keepdims=True)
    dropped = top & (probs > least)
    if xtc.spared is not None:
        dropped = dropped & ~xtc.spared
    happens = uniform(keys ^ mx.array(XTC_NOISE, mx.uint32)) < xtc.probability
    return mx.where(happens[:, None] & dropped, -mx.inf, scaled)


def _sorted_floor(scaled: mx.array, truncation: Truncation, *, exact: bool) -> mx.array:
    """Smallest logit (rows,) that top-k and top-p keep; equal logits are kept together.

    Sorting a whole vocabulary costs more than the rest of sampling, so the candidates are sorted
    first; they decide unless some row's top-p mass lies outside them, which one look tells.
    """
    vocab = scaled.shape[-1]
    if vocab > NUM_CANDIDATES:
        top = -mx.partition(-scaled, NUM_CANDIDATES - 1, axis=-1)[:, :NUM_CANDIDATES]
        floor, decided = _floor_among(top, scaled, truncation)
        if not exact or mx.all(decided).item():
            return floor
    return _floor_among(scaled, scaled, truncation)[0]


def _floor_among(
    candidates: mx.array, scaled: mx.array, truncation: Truncation
) -> tuple[mx.array, mx.array]:
    """The floor by the largest logits (rows, n), and whether they suffice to know it."""
    ordered = -mx.sort(-candidates, axis=-1)
    count = ordered.shape[-1]
    rank = mx.arange(count)
    unlimited = (truncation.top_k == 0) | (truncation.top_k > scaled.shape[-1])
    top_k = mx.where(unlimited, scaled.shape[-1], truncation.top_k)
    in_top_k = rank < top_k[:, None]
    limited = mx.where(in_top_k, ordered, -mx.inf)
    total = mx.where(unlimited, mx.logsumexp(scaled, axis=-1), mx.logsumexp(limited, axis=-1))
    probs = mx.exp(limited - total[:, None])
    before = mx.cumsum(probs, axis=-1) - probs
    # The likeliest token always stays; rounding must not let top_p = 1 cut anything.
    all_mass = (truncation.top_p >= 1.0)[:, None]
    in_top_p = (before < truncation.top_p[:, None]) | all_mass | (rank == 0)
    floor = mx.where(in_top_k & in_top_p, ordered, mx.inf).min(axis=-1)
    keeps_all = unlimited & (truncation.top_p >= 1.0)
    decided = keeps_all | (top_k <= count) | (unlimited & ~in_top_p[:, -1])
    return mx.where(keeps_all, -mx.inf, floor), decided
