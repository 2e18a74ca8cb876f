"""Forced acceptance: the rate asked for, of drafts that become the row's tokens."""

import numpy as np
import pytest

from mlxspec.speculative.calibrate import scratch_plan
from mlxspec.speculative.plan import StepPlan
from mlxspec.speculative.synthetic import force_acceptance

ROWS, DRAFTS = 4000, 3
REAL = 7
"""What the target drew everywhere; the drafts are 100 and up, so all of them are wrong."""


def plan() -> StepPlan:
    scratch = scratch_plan([(0, ROWS)], DRAFTS + 1)
    rng = np.random.default_rng(2)
    num_tokens = len(scratch.tokens)
    return scratch._replace(
        tokens=np.arange(100, 100 + num_tokens, dtype=np.uint32),
        noise_keys=rng.integers(0, 2**32, (num_tokens, 2), dtype=np.uint32),
    )


def answer_of(num_sampled: int) -> np.ndarray:
    """All drafts were rejected."""
    return np.concatenate([np.zeros(ROWS), np.full(num_sampled, REAL)]).astype(np.uint32)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 1.0])
def test_each_draft_behind_kept_ones_is_kept_at_the_rate(rate: float) -> None:
    step = plan()
    kept = force_acceptance(answer_of(len(step.sampled)), step, rate)[:ROWS]
    for position in range(DRAFTS):
        reached = kept >= position
        if reached.any():
            assert (kept[reached] > position).mean() == pytest.approx(rate, abs=0.04)


def test_kept_drafts_are_the_rows_tokens_and_the_others_the_targets() -> None:
    step = plan()
    told = force_acceptance(answer_of(len(step.sampled)), step, 0.5)
    kept, tokens = told[:ROWS], told[ROWS:].reshape(ROWS, DRAFTS + 1)
    drafts = step.tokens.reshape(ROWS, DRAFTS + 1)[:, 1:]
    for row in range(ROWS):
        assert (tokens[row, : kept[row]] == drafts[row, : kept[row]]).all()
        assert (tokens[row, kept[row] :] == REAL).all()


def test_the_same_noise_decides_the_same() -> None:
    step = plan()
    answer = answer_of(len(step.sampled))
    first = force_acceptance(answer, step, 0.5)
    assert (first == force_acceptance(answer, step, 0.5)).all()
    assert (answer == answer_of(len(step.sampled))).all(), "the step's own answer is left alone"


def test_a_row_without_drafts_keeps_none() -> None:
    step = scratch_plan([(0, 2)], 1)
    assert force_acceptance(np.array([0, 0, 5, 6], np.uint32), step, 1.0).tolist() == [0, 0, 5, 6]
