"""What steps cost is measured once for a device and model, as long as it holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from token_engine import token_engine

from mlxspec.engine import step_costs
from mlxspec.speculative import calibrate
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.cost_store import CostStore


@pytest.fixture
def loads(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[tuple[int, float]]]:
    """Starts an engine of the tiny model with a cache folder of its own; returns its step costs."""
    monkeypatch.setattr(step_costs, "cache_dir", lambda: tmp_path)

    def load() -> list[tuple[int, float]]:
        with token_engine(tiny_folder, keep_costs=True) as engine:
            costs: list[tuple[int, float]] = engine.scheduler.speculation(0)["step_cost"]
        return costs

    return load


def measured_as(ms: float, counts: list[int]) -> Callable[..., StepCosts]:
    def measure(*_: Any, **__: Any) -> StepCosts:
        counts.append(1)
        return StepCosts([(1, ms), (64, 2 * ms)], 0.0)

    return measure


def test_the_second_load_measures_nothing(
    loads: Callable[[], list[tuple[int, float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(step_costs, "measure", measured_as(5.0, counts))
    monkeypatch.setattr(calibrate, "_time", lambda *_: 6.0)
    first = loads()
    assert loads() == first == [(1, 5.0), (64, 10.0)]
    assert len(counts) == 1


@pytest.mark.parametrize("ms", [3.0, 8.0])
def test_costs_that_hold_no_more_are_measured_anew(
    loads: Callable[[], list[tuple[int, float]]], monkeypatch: pytest.MonkeyPatch, ms: float
) -> None:
    counts: list[int] = []
    monkeypatch.setattr(step_costs, "measure", measured_as(5.0, counts))
    loads()
    monkeypatch.setattr(step_costs, "measure", measured_as(ms, counts))
    monkeypatch.setattr(calibrate, "_time", lambda *_: ms)
    assert loads() == [(1, ms), (64, 2 * ms)]
    assert loads() == [(1, ms), (64, 2 * ms)]
    assert len(counts) == 2


def test_real_costs_are_kept_in_one_file(
    loads: Callable[[], list[tuple[int, float]]], tmp_path: Path
) -> None:
    first = loads()
    [kept] = (tmp_path / "costs").iterdir()
    found = CostStore(kept.parent).read(kept.stem)
    assert found is not None
    assert dict(found.costs.step_cost) == pytest.approx(dict(first))
    loads()
    assert list(kept.parent.iterdir()) == [kept]
