"""The rejection rule keeps the target's distribution, whatever drafts were drawn from."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxspec.speculative.rejection import DRAFT_NOISE, Verdict, judge
from mlxspec.speculative.sample import pick

VOCAB = 10
ROWS = 40_000
DRAFTS = 3
CRITICAL = 35.0
"""Chi-square beyond which nine degrees of freedom are met once in 17,000 times."""

Table = np.ndarray[Any, np.dtype[np.float64]]


def weights(seed: int, cut: int) -> mx.array:
    """Log-weights (DRAFTS + 1, VOCAB), in each place `cut` tokens weigh nothing."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(DRAFTS + 1, VOCAB)) * 1.5
    for row in table:
        row[rng.choice(VOCAB, cut, replace=False)] = -np.inf
    return mx.array(table.astype(np.float32))


def judged(
    target: mx.array,
    proposed: mx.array,
    num_drafts: int = DRAFTS,
    rule: Callable[..., Verdict] = judge,
) -> Verdict:
    """Many rows with the same distributions, each with noise of its own."""
    rng = np.random.default_rng(5)
    words = rng.integers(0, 2**32, size=(ROWS, DRAFTS + 1, 2), dtype=np.uint32)
    keys = mx.array(words)
    shape = (ROWS, DRAFTS, VOCAB)
    q = mx.broadcast_to(proposed[:DRAFTS], shape)
    own = (keys[:, :DRAFTS] ^ mx.array(DRAFT_NOISE, mx.uint32)).reshape(-1, 2)
    drafts = pick(q.reshape(-1, VOCAB), own).reshape(ROWS, DRAFTS)
    p = mx.broadcast_to(target, (ROWS, DRAFTS + 1, VOCAB))
    return rule(p, q, drafts, mx.full(ROWS, num_drafts), keys)


def chi_square(tokens: Table, log_weights: mx.array) -> float:
    probs = np.array(mx.softmax(log_weights))
    counts = np.bincount(tokens.astype(np.int64), minlength=VOCAB)
    assert counts[probs == 0].sum() == 0, "a token that was cut off"
    expected = len(tokens) * probs[probs > 0]
    return float(((counts[probs > 0] - expected) ** 2 / expected).sum())


def by_place(verdict: Verdict, target: mx.array) -> list[float]:
    """Of each place the chi-square of the tokens that came out there."""
    kept, tokens = np.array(verdict.kept), np.array(verdict.tokens)
    places = range(DRAFTS + 1)
    return [chi_square(tokens[kept >= place, place], target[place]) for place in places]


@pytest.mark.parametrize("cut", [0, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_place_has_the_targets_distribution(seed: int, cut: int) -> None:
    target, proposed = weights(seed, cut), weights(seed + 10, cut)
    verdict = judged(target, proposed)
    assert max(by_place(verdict, target)) < CRITICAL


def test_tokens_of_neighbouring_places_are_independent() -> None:
    """What came out at one place says nothing of the next: their noises share nothing."""
    target, proposed = weights(4, 0), weights(14, 0)
    verdict = judged(target, proposed)
    kept, tokens = np.array(verdict.kept), np.array(verdict.tokens)
    likeliest = int(np.argmax(np.array(target[0])))
    after = tokens[(kept >= 1) & (tokens[:, 0] == likeliest), 1]
    assert chi_square(after, target[1]) < CRITICAL


def test_as_many_are_kept_as_the_distributions_have_in_common() -> None:
    target, proposed = weights(1, 0), weights(11, 0)
    kept = np.array(judged(target, proposed).kept)
    common = np.array(mx.minimum(mx.softmax(target, -1), mx.softmax(proposed, -1)).sum(-1))
    for place in range(DRAFTS):
        reached = kept >= place
        assert (kept[reached] > place).mean() == pytest.approx(common[place], abs=0.02)


def test_drafts_of_the_target_itself_are_all_kept() -> None:
    target = weights(1, 2)
    verdict = judged(target, target)
    assert mx.all(verdict.kept == DRAFTS).item()
    assert max(by_place(verdict, target)) < CRITICAL


@pytest.mark.parametrize("num_drafts", [1, 2])
def test_padding_is_never_kept_and_the_token_behind_the_drafts_is_the_targets(
    num_drafts: int,
) -> None:
    target, proposed = weights(2, 0), weights(12, 0)
    verdict = judged(target, proposed, num_drafts)
    kept, tokens = np.array(verdict.kept), np.array(verdict.tokens)
    assert kept.max() == num_drafts
    behind = tokens[kept == num_drafts, num_drafts]
    assert chi_square(behind, target[num_drafts]) < CRITICAL


def from_the_target(target: mx.array, *others: mx.array) -> Verdict:
    """A wrong rule: a rejected draft gives way to a token drawn from p, not from max(p - q, 0)."""
    right = judge(target, *others)
    keys = others[-1].reshape(-1, 2)
    drawn = pick(target.reshape(-1, VOCAB), keys).reshape(ROWS, DRAFTS + 1)
    replaced = mx.arange(DRAFTS + 1) == right.kept[:, None]
    return Verdict(right.kept, mx.where(replaced, drawn, right.tokens))


def without_a_coin(target: mx.array, proposed: mx.array, *others: mx.array) -> Verdict:
    """A wrong rule: a draft is kept if the target likes it at all as much as the draft model."""
    return judge(target, proposed + mx.where(proposed > target[:, :-1], 30.0, -30.0), *others)


@pytest.mark.parametrize("rule", [from_the_target, without_a_coin])
def test_a_wrong_rule_would_be_seen(rule: Callable[..., Verdict]) -> None:
    target, proposed = weights(1, 0), weights(11, 0)
    assert max(by_place(judged(target, proposed, rule=rule), target)) > 10 * CRITICAL
