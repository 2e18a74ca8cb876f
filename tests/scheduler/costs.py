"""What steps are said to cost. On so small a model drafts never pay; told that tokens are free, the
controller drafts."""

import pytest

from mlxspec.engine import step_costs
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.step import Target

FREE = StepCosts(step_cost=[(1, 1.0), (64, 1.0)], rect_cost=0.0)


def say_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a millisecond, whatever its tokens."""
    monkeypatch.setattr(step_costs, "measure", lambda *_, **__: FREE)
    monkeypatch.setattr(step_costs, "measure_plain", lambda *_, **__: FREE)


def say_cheap(monkeypatch: pytest.MonkeyPatch, draft_ms: float) -> None:
    """The same, and a forward of the draft model so long."""

    def measured(target: Target, **_: object) -> StepCosts:
        # A target's rows have room for its draft model's layers, which is measured alone.
        ms = 1.0 if target.takes_drafter else draft_ms
        return StepCosts(step_cost=[(1, ms), (64, ms)], rect_cost=0.0)

    monkeypatch.setattr(step_costs, "measure", measured)
