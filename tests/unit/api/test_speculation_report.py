"""GET /v1/speculation/report: counts and measured times, and null for what was not measured."""

from typing import Any

from fake_engine import FakeEngine
from litestar.testing import TestClient

from mlxspec.config import SpeculationConfig
from mlxspec.engine.speculation import SpeculationReport

TOLD = {
    "drafters": [("suffix", 40, 30), ("prediction", 0, 0)],
    "positions": [(25, 20), (15, 10), (0, 0), (0, 0)],
    "lens": [5, 10, 0, 5],
    "plain": (4, 8, 8, 20.0),
    "drafting": (10, 20, 50, 80.0),
    "step_cost": [(1, 2.0), (8, 3.5)],
    "rect_cost": 0.25,
}
NOTHING = {
    "drafters": [("suffix", 0, 0)],
    "positions": [(0, 0)] * 64,
    "lens": [0] * 65,
    "plain": (0, 0, 0, 0.0),
    "drafting": (0, 0, 0, 0.0),
    "step_cost": None,
    "rect_cost": None,
}


def report(client: TestClient[Any]) -> list[dict[str, Any]]:
    answer = client.get("/v1/speculation/report")
    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def test_what_was_counted_and_timed_is_told(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.reports = [SpeculationReport.of("demo", SpeculationConfig(), TOLD)]
    [told] = report(client)
    assert told["model"] == "demo"
    assert told["acceptance"] == "shared-noise"
    assert told["synthetic_acceptance"] is None
    assert told["drafters"]["suffix"] == {
        "proposed_tokens": 40,
        "accepted_tokens": 30,
        "acceptance_rate": 0.75,
    }
    assert [it["acceptance_rate"] for it in told["by_position"]] == [20 / 25, 10 / 15]
    assert told["draft_lengths"] == {"0": 5, "1": 10, "3": 5}
    assert told["drafting_steps"] == {
        "steps": 10,
        "tokens": 50,
        "tokens_per_row": 2.5,
        "ms_per_step": 8.0,
        "ms_per_token": 1.6,
    }
    assert told["step_costs"] == [{"tokens": 1, "ms": 2.0}, {"tokens": 8, "ms": 3.5}]
    assert told["rectangle_cost_ms"] == 0.25


def test_what_was_not_measured_is_null(client: TestClient[Any], engine: FakeEngine) -> None:
    how = SpeculationConfig(synthetic_acceptance=0.7, acceptance="rejection")
    engine.reports = [SpeculationReport.of("demo", how, NOTHING)]
    [told] = report(client)
    assert told["acceptance"] == "rejection"
    assert told["synthetic_acceptance"] == 0.7
    assert told["drafters"]["suffix"]["acceptance_rate"] is None
    assert told["by_position"] == []
    assert told["draft_lengths"] == {}
    for kind in ("plain_steps", "drafting_steps"):
        assert [told[kind][key] for key in ("tokens_per_row", "ms_per_step", "ms_per_token")] == [
            None,
            None,
            None,
        ]
    assert told["step_costs"] is None
    assert told["rectangle_cost_ms"] is None
