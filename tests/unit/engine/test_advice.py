"""Advice follows from figures, and from nothing else."""

from typing import Any

import pytest

from mlxspec.engine.advice import Advice, Seen, advise
from mlxspec.engine.counters import Counters
from mlxspec.engine.request import DrafterCard, MemoryUse, ModelCard
from mlxspec.engine.speculation import DrafterReport, SpeculationReport, StepsReport

LISTS = {"drafted_per_pos": [], "accepted_per_pos": [], "drafters": []}


def seen(refused: int = 0, **counts: int) -> Seen:
    zeros: dict[str, Any] = dict.fromkeys(Counters.__struct_fields__, 0) | LISTS
    return Seen(
        counters=Counters(**(zeros | counts)),
        memory=MemoryUse(budget=100, held=90, active=0, cache=0, peak=0, process=None, free=0),
        models=[ModelCard(id="m", created=0, state="resident", context_length=1, memory_bytes=80)],
        drafters=[],
        speculation=[],
        refused=refused,
    )


def report(kept: int = 900, plain_ms: float = 2.0, drafting_ms: float = 1.0) -> SpeculationReport:
    return SpeculationReport(
        model="m",
        acceptance="shared-noise",
        synthetic_acceptance=None,
        drafters={"model": DrafterReport.of(1000, kept)},
        by_position=[],
        draft_lengths={},
        plain_steps=StepsReport.of(100, 100, 100, 100 * plain_ms),
        drafting_steps=StepsReport.of(100, 100, 200, 200 * drafting_ms),
        step_costs=None,
        rectangle_cost_ms=None,
        self_draft=None,
    )


def drafter(state: Any) -> DrafterCard:
    return DrafterCard(id="quick", state=state, memory_bytes=30, num_served=0, models=("m",))


def test_a_server_that_does_well_gets_no_advice() -> None:
    busy = seen(requests_finished=1000, preemptions=3, model_evictions=3, prefix_evictions=100)
    assert advise(seen()) == []
    assert advise(busy._replace(speculation=[report()], drafters=[drafter("resident")])) == []


@pytest.mark.parametrize(
    ("figures", "setting", "said"),
    [
        (seen(requests_finished=100, preemptions=6), "--kv-memory", "computed again"),
        (seen(requests_finished=10, prefix_evictions=20), "--kv-memory", "cached prefixes"),
        (seen(requests_finished=10, model_evictions=4), "--memory", "take turns"),
        (seen(memory_trims=3), "--memory", "comes near"),
        (seen(refused=10, requests_finished=100), "--max-waiting", "queues are full"),
        (seen()._replace(drafters=[drafter("absent")]), "--memory", "no room"),
        (seen()._replace(speculation=[report(kept=100)]), "draft_model", "few"),
        (seen()._replace(speculation=[report(drafting_ms=3.0)]), "--no-speculation", "longer"),
    ],
)
def test_each_piece_of_advice_has_the_figures_that_led_to_it(
    figures: Seen, setting: str, said: str
) -> None:
    [advice] = advise(figures)
    assert advice.setting == setting
    assert said in advice.advice
    assert any(advice.figures.values())


def test_what_is_rare_is_no_reason() -> None:
    rare = seen(refused=2, preemptions=2, model_evictions=2, prefix_evictions=2, memory_trims=2)
    few = report(kept=100)
    few = SpeculationReport(
        **{name: getattr(few, name) for name in few.__struct_fields__}
        | {"drafters": {"model": DrafterReport.of(100, 0)}}
    )
    assert advise(rare._replace(speculation=[few])) == []


def test_forced_acceptance_is_not_judged() -> None:
    low = report(kept=0)
    fields = {name: getattr(low, name) for name in low.__struct_fields__}
    forced = SpeculationReport(
        **fields | {"synthetic_acceptance": 0.0, "drafting_steps": low.plain_steps}
    )
    assert advise(seen()._replace(speculation=[forced])) == []


def test_figures_are_those_that_were_measured() -> None:
    [advice] = advise(seen(requests_finished=20, preemptions=5, kv_blocks_total=64))
    assert isinstance(advice, Advice)
    assert advice.figures == {"preemptions": 5, "kv_blocks_total": 64, "requests_ended": 20}
