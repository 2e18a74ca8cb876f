"""What speculation did, measured: nothing here is estimated, and what was not measured is null."""

from typing import Any, Self

from msgspec import Struct

from mlxspec.config import Acceptance, SpeculationConfig


class DrafterReport(Struct, frozen=True, kw_only=True):
    """Draft tokens of one drafter, or at one place of the draft."""

    proposed_tokens: int
    accepted_tokens: int
    acceptance_rate: float | None

    @classmethod
    def of(cls, proposed: int, accepted: int) -> Self:
        """With the rate, if anything was proposed."""
        return cls(
            proposed_tokens=proposed,
            accepted_tokens=accepted,
            acceptance_rate=accepted / proposed if proposed else None,
        )


class StepsReport(Struct, frozen=True, kw_only=True):
    """Steps of one kind, as they came: no prompt was read in them."""

    steps: int
    tokens: int
    tokens_per_row: float | None
    ms_per_step: float | None
    ms_per_token: float | None

    @classmethod
    def of(cls, steps: int, rows: int, tokens: int, ms: float) -> Self:
        """From sums; rates are null where there was no step."""
        return cls(
            steps=steps,
            tokens=tokens,
            tokens_per_row=tokens / rows if rows else None,
            ms_per_step=ms / steps if steps else None,
            ms_per_token=ms / tokens if tokens else None,
        )


class StepCost(Struct, frozen=True, kw_only=True):
    """A step of so many tokens, timed when the model was loaded."""

    tokens: int
    ms: float


class LayerTrial(Struct, frozen=True, kw_only=True):
    """Some layers of a model as its draft model, tried when it was loaded.

    `agreement`: share of tokens of ordinary text that they say as the model does. `step_ms`: time
    of a forward of one token. `promised_speedup`: over plain decoding of one request, at best, by
    the controller's own account of these figures.
    """

    layers: tuple[int, ...]
    agreement: float
    step_ms: float
    promised_speedup: float


class SelfDraftReport(Struct, frozen=True, kw_only=True):
    """What was tried of a model's layers, and those that draft for it; null where none do."""

    num_layers: int
    kept: tuple[int, ...] | None
    trials: tuple[LayerTrial, ...]
    reason: str


class SpeculationReport(Struct, frozen=True, kw_only=True):
    """Speculation of one model since it was loaded.

    `acceptance` is the rule that a draft model's drafts are judged by; all others are judged by
    shared noise.
    `draft_lengths` counts decoding rows by the number of drafts they were given.
    `plain_steps` and `drafting_steps` are those that the controller chose, so their times do not
    compare like with like: `mlxspec bench --ab` does. `self_draft` tells which of its own layers a
    model drafts with, if it was to, and what was measured to decide it; null before its first load.
    """

    model: str
    acceptance: Acceptance
    synthetic_acceptance: float | None
    drafters: dict[str, DrafterReport]
    by_position: list[DrafterReport]
    draft_lengths: dict[int, int]
    plain_steps: StepsReport
    drafting_steps: StepsReport
    step_costs: list[StepCost] | None
    rectangle_cost_ms: float | None
    self_draft: SelfDraftReport | None

    @classmethod
    def of(
        cls,
        model: str,
        how: SpeculationConfig,
        told: dict[str, Any],
        self_draft: SelfDraftReport | None = None,
    ) -> Self:
        """From what the scheduler tells: see `_scheduler.Scheduler.speculation`."""
        positions = [DrafterReport.of(*counts) for counts in told["positions"]]
        while positions and not positions[-1].proposed_tokens:
            positions.pop()
        costs = told["step_cost"]
        return cls(
            model=model,
            acceptance=how.acceptance,
            synthetic_acceptance=how.synthetic_acceptance,
            drafters={name: DrafterReport.of(*counts) for name, *counts in told["drafters"]},
            by_position=positions,
            draft_lengths={length: rows for length, rows in enumerate(told["lens"]) if rows},
            plain_steps=StepsReport.of(*told["plain"]),
            drafting_steps=StepsReport.of(*told["drafting"]),
            step_costs=costs and [StepCost(tokens=tokens, ms=ms) for tokens, ms in costs],
            rectangle_cost_ms=told["rect_cost"],
            self_draft=self_draft,
        )
