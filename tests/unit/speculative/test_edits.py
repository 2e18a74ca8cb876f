"""Edits of logits are mlx-lm's own processors, and draws follow the edited distribution."""

import math
from collections import Counter
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import (
    apply_xtc,
    make_frequency_penalty,
    make_logits_processors,
    make_presence_penalty,
    make_repetition_penalty,
)

from mlxspec.speculative.draw import draw_targets
from mlxspec.speculative.edits import ADD, ALLOW, PENALIZE, SPARE, Edits
from mlxspec.speculative.plan import Ints, Samplers
from mlxspec.speculative.sample import Truncation, Xtc, draw

VOCAB = 10
CONTEXT = [3, 3, 5, 0, 9, 3]
LOGITS = [2.0, 1.5, 1.0, -0.3, 0.0, -0.5, -1.0, -2.0, 0.7, 1.9]

Run = tuple[int, int, int, int, float, float]
"""As the scheduler packs it: kind, first position, number of positions, token, two floats."""


def packed(runs: list[Run]) -> Ints:
    table = np.array([run[:4] for run in runs], np.uint32).reshape(-1, 4)
    floats = np.array([run[4:] for run in runs], np.float32).reshape(-1, 2)
    return np.concatenate([table, floats.view(np.uint32)], axis=1)


def rows(count: int) -> mx.array:
    return mx.broadcast_to(mx.array(LOGITS), (count, VOCAB))


def penalties(repetition: float, presence: float, frequency: float, count: int = 1) -> list[Run]:
    return [
        (PENALIZE, 0, count, token, repetition, presence + frequency * times)
        for token, times in Counter(CONTEXT).items()
    ]


def edited(runs: list[Run]) -> list[float]:
    return Edits.unpack(packed(runs)).apply(rows(1))[0].tolist()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (penalties(1.7, 0, 0), make_repetition_penalty(1.7, 100)),
        (penalties(1, 0.8, 0), make_presence_penalty(0.8, 100)),
        (penalties(1, 0, -0.4), make_frequency_penalty(-0.4, 100)),
        (
            [(ADD, 0, 1, 3, 2.5, 0), (ADD, 0, 1, 8, -100, 0)],
            make_logits_processors(logit_bias={3: 2.5, 8: -100.0})[0],
        ),
    ],
    ids=["repetition", "presence", "frequency", "bias"],
)
def test_edits_are_mlx_lms_processors(ours: list[Run], theirs: Any) -> None:
    expected = theirs(mx.array(CONTEXT), mx.array([LOGITS]))[0].tolist()
    assert edited(ours) == pytest.approx(expected, abs=1e-6)
    assert edited(ours) != pytest.approx(LOGITS, abs=1e-6)


def test_all_penalties_together_are_mlx_lms_one_after_another() -> None:
    logits = mx.array([LOGITS])
    for processor in make_logits_processors({3: 1.0}, 1.3, 100, 0.5, 100, 0.2, 100):
        logits = processor(mx.array(CONTEXT), logits)
    runs = [(ADD, 0, 1, 3, 1.0, 0.0), *penalties(1.3, 0.5, 0.2)]
    assert edited(runs) == pytest.approx(logits[0].tolist(), abs=1e-6)


def test_allowed_tokens_are_kept_and_a_ban_wins_over_a_bias() -> None:
    ban = (ADD, 0, 1, 5, -math.inf, 0.0)
    runs = [(ALLOW, 0, 1, token, 0.0, 0.0) for token in (1, 5, 7)]
    kept = edited([*runs, ban, (ADD, 0, 1, 5, 100.0, 0.0)])
    assert [token for token, logit in enumerate(kept) if logit > -math.inf] == [1, 7]


def test_an_edit_changes_its_own_positions_and_no_other() -> None:
    runs = [(ADD, 1, 2, 4, 1.0, 0.0), (ALLOW, 3, 1, 0, 0.0, 0.0), (PENALIZE, 4, 1, 0, 2.0, 0.5)]
    logits = np.array(Edits.unpack(packed(runs)).apply(rows(6)))
    changed = {
        (int(at), int(token)) for at, token in np.argwhere(logits != np.array(LOGITS, np.float32))
    }
    assert changed == {(1, 4), (2, 4), *((3, token) for token in range(1, VOCAB)), (4, 0)}


def test_edits_of_some_positions_are_numbered_anew() -> None:
    edits = Edits.unpack(packed([(ADD, 2, 4, 1, 1.0, 0.0)])).among(np.array([0, 3, 5, 9]))
    assert edits.position.tolist() == [1, 2]


def test_rows_that_ask_for_nothing_are_drawn_as_if_alone() -> None:
    mixed = mx.array(np.random.default_rng(0).normal(size=(3, VOCAB)).astype(np.float32))
    samplers = Samplers.greedy(np.arange(3, dtype=np.uint32), np.zeros(3, np.uint32))
    keys = np.zeros((3, 2), np.uint32)
    plain = draw_targets(mixed, samplers, keys, Edits.unpack(packed([]))).tolist()
    banned = packed([(ADD, 1, 1, plain[1], -math.inf, 0.0)])
    drawn = draw_targets(mixed, samplers, keys, Edits.unpack(banned)).tolist()
    assert (drawn[0], drawn[2]) == (plain[0], plain[2])
    assert drawn[1] != plain[1]


def chi_square(tokens: mx.array, probs: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The statistic, and the mean plus five standard deviations of its distribution."""
    counts = np.bincount(np.array(tokens), minlength=VOCAB)
    assert counts[probs == 0].sum() == 0
    expected = counts.sum() * probs[probs > 0]
    freedom = len(expected) - 1
    statistic = float(((counts[probs > 0] - expected) ** 2 / expected).sum())
    return statistic, freedom + 5 * math.sqrt(2 * freedom)


def softmax(logits: Any) -> np.ndarray[Any, Any]:
    powers = np.exp(np.array(logits, np.float64) - max(logits))
    return powers / powers.sum()


def test_draws_follow_the_penalised_and_biased_distribution() -> None:
    count, temperature = 30_000, 0.8
    runs = [(ADD, 0, count, 4, 1.5, 0.0), (ADD, 0, count, 1, -math.inf, 0.0)]
    runs += penalties(1.4, 0.3, 0.1, count)
    samplers = Samplers.greedy(np.arange(count, dtype=np.uint32), np.zeros(count, np.uint32))
    samplers = samplers._replace(temperature=np.full(count, temperature, np.float32))
    keys = np.random.default_rng(1).integers(0, 2**32, size=(count, 2), dtype=np.uint32)
    tokens = draw_targets(rows(count), samplers, keys, Edits.unpack(packed(runs)))
    expected = np.array(LOGITS, np.float64)
    expected[4] += 1.5
    expected[1] = -math.inf
    for token, times in Counter(CONTEXT).items():
        logit = expected[token]
        expected[token] = (logit * 1.4 if logit < 0 else logit / 1.4) - 0.3 - 0.1 * times
    statistic, bound = chi_square(tokens, softmax(expected / temperature))
    assert statistic < bound


def xtc_draws(probability: float, spared: list[int]) -> mx.array:
    count = 20_000
    keys = np.random.default_rng(2).integers(0, 2**32, size=(count, 2), dtype=np.uint32)
    mask = mx.broadcast_to(mx.array([token in spared for token in range(VOCAB)]), (count, VOCAB))
    keeps_all = Truncation(mx.ones(count), mx.ones(count), mx.zeros(count), mx.zeros(count))
    xtc = Xtc(mx.full(count, probability), mx.full(count, 0.1), mask if spared else None)
    return draw(rows(count), mx.array(keys), keeps_all, sort=False, xtc=xtc)


@pytest.mark.parametrize("spared", [[], [0, 8]])
def test_xtc_drops_what_mlx_lms_own_drops(spared: list[int]) -> None:
    theirs = apply_xtc(mx.array([LOGITS]), 1.0, 0.1, spared)[0].tolist()
    statistic, bound = chi_square(xtc_draws(1.0, spared), softmax(theirs))
    assert statistic < bound


def test_xtc_happens_as_often_as_asked_and_independently_of_the_draw() -> None:
    whole = softmax(LOGITS)
    cut = softmax(apply_xtc(mx.array([LOGITS]), 1.0, 0.1, [])[0].tolist())
    statistic, bound = chi_square(xtc_draws(0.4, []), 0.6 * whole + 0.4 * cut)
    assert statistic < bound


def test_spared_tokens_are_found_by_position() -> None:
    spared = Edits.unpack(packed([(SPARE, 1, 1, 2, 0.0, 0.0)])).spared((3, VOCAB))
    assert spared is not None
    assert np.argwhere(np.array(spared)).tolist() == [[1, 2]]
