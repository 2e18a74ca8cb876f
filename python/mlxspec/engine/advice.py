"""What could be set otherwise: each piece of advice with the measured figures that led to it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from mlxspec.engine.counters import Counters
from mlxspec.engine.request import DrafterCard, MemoryUse, ModelCard
from mlxspec.engine.speculation import SpeculationReport

OFTEN = 0.05
"""So many preemptions or refusals for each request that ended are worth a word."""

THRASHING = 0.2
"""The same for models that left memory."""

FEW = 3
"""What happened less often may be chance."""

ENOUGH_DRAFTS = 500
LOW_ACCEPTANCE = 0.3
"""A draft model costs its own forwards besides those tokens of the target that are thrown away."""

ENOUGH_STEPS = 50


class Advice(Struct, frozen=True, kw_only=True):
    """What to change (`setting`), why, and by which figures."""

    setting: str
    model: str | None = None
    advice: str
    figures: dict[str, float]


class Seen(NamedTuple):
    """All that advice is taken from; `refused`: requests that found a queue full."""

    counters: Counters
    memory: MemoryUse
    models: Sequence[ModelCard]
    drafters: Sequence[DrafterCard]
    speculation: Sequence[SpeculationReport]
    refused: int


def advise(seen: Seen) -> list[Advice]:
    """Advice by the figures of a server so far; none where they give no reason."""
    return [*_of_kv(seen), *_of_memory(seen), *_of_queues(seen), *_of_drafts(seen)]


def _ended(seen: Seen) -> int:
    counters = seen.counters
    return max(1, counters.requests_finished + counters.requests_aborted + counters.requests_failed)


def _of_kv(seen: Seen) -> Iterator[Advice]:
    counters, ended = seen.counters, _ended(seen)
    blocks = {"kv_blocks_total": counters.kv_blocks_total, "requests_ended": ended}
    if counters.preemptions >= max(FEW, OFTEN * ended):
        yield Advice(
            setting="--kv-memory",
            advice="requests lose their KV and are computed again: raise --kv-memory, or lower "
            "--max-running",
            figures={"preemptions": counters.preemptions, **blocks},
        )
    if counters.prefix_evictions >= max(FEW, ended):
        yield Advice(
            setting="--kv-memory",
            advice="cached prefixes leave before they are asked for again: raise --kv-memory, or "
            "keep them on disk with --kv-dir",
            figures={
                "prefix_evictions": counters.prefix_evictions,
                "cached_tokens": counters.cached_tokens,
                "prompt_tokens": counters.prompt_tokens,
                **blocks,
            },
        )


def _of_memory(seen: Seen) -> Iterator[Advice]:
    counters, memory, ended = seen.counters, seen.memory, _ended(seen)
    if counters.model_evictions >= max(FEW, THRASHING * ended):
        yield Advice(
            setting="--memory",
            advice="models take turns in memory: raise --memory, serve fewer, or raise "
            "min_resident_seconds",
            figures={
                "model_evictions": counters.model_evictions,
                "model_loads": counters.model_loads,
                "requests_ended": ended,
                "budget": memory.budget,
                "needed_by_all": sum(model.memory_bytes for model in seen.models),
            },
        )
    for drafter in seen.drafters:
        waits = [it for it in seen.models if it.id in drafter.models and it.state == "resident"]
        if drafter.state == "absent" and waits:
            yield Advice(
                setting="--memory",
                model=drafter.id,
                advice=f"draft model {drafter.id!r} has no room beside the models: raise --memory, "
                "or lower --kv-memory",
                figures={
                    "needed": drafter.memory_bytes,
                    "held": memory.held,
                    "budget": memory.budget,
                },
            )
    if counters.memory_trims + counters.memory_refusals >= FEW:
        yield Advice(
            setting="--memory",
            advice="the process comes near to all it may hold: lower --memory or --kv-memory, or "
            "raise MLXSPEC_MEMORY_LIMIT",
            figures={
                "memory_trims": counters.memory_trims,
                "memory_refusals": counters.memory_refusals,
                "memory_permille": counters.memory_permille,
            },
        )


def _of_queues(seen: Seen) -> Iterator[Advice]:
    ended = _ended(seen)
    if seen.refused >= max(FEW, OFTEN * ended):
        yield Advice(
            setting="--max-waiting",
            advice="requests are refused as queues are full: raise --max-waiting, or max_waiting "
            "of the model or group, if clients can wait; else serve fewer",
            figures={
                "refused": seen.refused,
                "requests_ended": ended,
                "requests_waiting": seen.counters.requests_waiting,
                "requests_running": seen.counters.requests_running,
            },
        )


def _of_drafts(seen: Seen) -> Iterator[Advice]:
    for report in seen.speculation:
        if report.synthetic_acceptance is not None:
            continue
        by_model = report.drafters.get("model")
        if by_model and by_model.proposed_tokens >= ENOUGH_DRAFTS:
            rate = by_model.accepted_tokens / by_model.proposed_tokens
            if rate < LOW_ACCEPTANCE:
                yield Advice(
                    setting="draft_model",
                    model=report.model,
                    advice="few of the draft model's tokens are kept: try another one, or none",
                    figures={
                        "proposed_tokens": by_model.proposed_tokens,
                        "accepted_tokens": by_model.accepted_tokens,
                        "acceptance_rate": rate,
                    },
                )
        yield from _of_steps(report)


def _of_steps(report: SpeculationReport) -> Iterator[Advice]:
    plain, drafting = report.plain_steps, report.drafting_steps
    if min(plain.steps, drafting.steps) < ENOUGH_STEPS:
        return
    if plain.ms_per_token and drafting.ms_per_token and drafting.ms_per_token > plain.ms_per_token:
        yield Advice(
            setting="--no-speculation",
            model=report.model,
            advice="steps with drafts took longer for a token than steps without: 'mlxspec bench "
            "--ab' compares them on the same work",
            figures={
                "plain_ms_per_token": plain.ms_per_token,
                "drafting_ms_per_token": drafting.ms_per_token,
                "plain_steps": plain.steps,
                "drafting_steps": drafting.steps,
            },
        )
