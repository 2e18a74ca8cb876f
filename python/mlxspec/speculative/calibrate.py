"""What a step costs on this device, measured when a model is loaded.

The scheduler decides draft lengths and prefill chunks by these figures, and corrects them by what
real steps take.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mlxspec.model.forward import CompiledForward
from mlxspec.model.kv import Rect
from mlxspec.speculative.encoder_target import EncoderTarget
from mlxspec.speculative.plain_target import PlainTarget
from mlxspec.speculative.plan import Samplers, StepPlan
from mlxspec.speculative.step import AnyTarget, Target, run_step

CONTEXT = 128
"""Positions before the measured tokens, so that attention is in the figures."""

REPEATS = 3

NOISE = 1.1
"""Times that differ by less may be equal."""

SAME = 1.5
"""Costs that were measured earlier hold if a plain step takes no more or less than this of its."""

SLAB = 2**32 - 1
"""A slab id that the scheduler never hands out."""


class StepCosts(NamedTuple):
    """Milliseconds of a step by its number of tokens, and of one more rectangle in it."""

    step_cost: list[tuple[int, float]]
    rect_cost: float


def measure(target: Target, *, padded: bool, slots: int, max_tokens: int) -> StepCosts:
    """Time steps on a scratch slab. For the thread that loads the model; takes about forty steps.

    padded: whether steps run as one rectangle over `slots` rows (else: one row of many tokens).
    Steps may run compiled: the network's `compiled` is set unless that is slower here.
    """
    target.store.create(SLAB, slots, CONTEXT + max_tokens)
    try:
        often = [(slots, 1), (slots, 5)] if padded else [(1, 1), (slots, 1)]
        target.network.compiled = _compiled_unless_slower(target, often, padded=padded)
        if padded:
            shapes = [(slots, width) for width in (1, 2, 3, 5, 9, 17, 33)]
            return StepCosts(_monotone(target, shapes), 0.0)
        tokens = [width for width in (1, 2, 4, 8, 16, 32, 64) if width <= max_tokens]
        costs = _monotone(target, [(1, width) for width in tokens])
        return StepCosts(costs, _rect_cost(target, slots))
    finally:
        target.store.drop(SLAB)


def still_holds(target: Target, costs: StepCosts, *, padded: bool, slots: int) -> bool:
    """Whether a plain step takes about as long as it once did. Thread as for `measure`."""
    ms = plain_step_ms(target, padded=padded, slots=slots)
    return 1 / SAME <= ms / costs.step_cost[0][1] <= SAME


def plain_step_ms(target: Target, *, padded: bool, slots: int) -> float:
    """Time of a step of one new token for one row, or, padded, for all. As for `measure`."""
    target.store.create(SLAB, slots, CONTEXT + 1)
    try:
        return _time(target, [(0, slots if padded else 1)], 1)
    finally:
        target.store.drop(SLAB)


def measure_plain(target: PlainTarget | EncoderTarget, max_tokens: int) -> StepCosts:
    """Time prompts of some lengths, one row alone. Thread as for `measure`; about thirty steps."""
    target.store.create(SLAB, 1, max_tokens)
    try:
        widths = [width for width in (1, 2, 4, 8, 16, 32, 64) if width <= max_tokens]
        plans = [(width, scratch_plan([(0, 1)], width, context=0)) for width in widths]
        return StepCosts([(width, _best(target, plan)) for width, plan in plans], 0.0)
    finally:
        target.store.drop(SLAB)


def _monotone(target: Target, shapes: Iterable[tuple[int, int]]) -> list[tuple[int, float]]:
    return [(rows * width, _time(target, [(0, rows)], width)) for rows, width in shapes]


def _compiled_unless_slower(
    target: Target, shapes: list[tuple[int, int]], *, padded: bool
) -> CompiledForward | None:
    """A traced forward, unless it is slower than one described anew by more than noise.

    shapes: the (rows, width) that matter most. The two take turns, as a server that is starting has
    other work, too.
    """
    compiled = CompiledForward(target.network, padded=padded)
    eager = traced = 0.0
    for rows, width in shapes:
        plan = scratch_plan([(0, rows)], width)
        times: dict[CompiledForward | None, list[float]] = {None: [], compiled: []}
        for _ in range(2 + REPEATS):
            for forward, measured in times.items():
                target.network.compiled = forward
                measured.append(_milliseconds(target, plan))
        eager, traced = eager + min(times[None]), traced + min(times[compiled])
    return compiled if traced < NOISE * eager else None


def _rect_cost(target: Target, slots: int) -> float:
    """Rows one by one against the same rows together, per rectangle more."""
    if slots == 1:
        return 0.0
    apart = _time(target, [(slot, 1) for slot in range(slots)], 1)
    together = _time(target, [(0, slots)], 1)
    return max(0.0, apart - together) / (slots - 1)


def _time(target: Target, runs: list[tuple[int, int]], width: int) -> float:
    return _best(target, scratch_plan(runs, width))


def _best(target: AnyTarget, plan: StepPlan) -> float:
    """Best of a few runs, in milliseconds; the first one, which warms up, does not count."""
    return min([_milliseconds(target, plan) for _ in range(1 + REPEATS)][1:])


def _milliseconds(target: AnyTarget, plan: StepPlan) -> float:
    start = time.perf_counter()
    run_step(target, plan)
    return (time.perf_counter() - start) * 1e3


def scratch_plan(runs: list[tuple[int, int]], width: int, context: int = CONTEXT) -> StepPlan:
    """A step of `width` tokens behind `context` others in every row of the given (slot, rows) runs;
    all of them sampled."""
    rects, first = [], 0
    for slot, rows in runs:
        rects.append(Rect(SLAB, slot, rows, width, first, context + width))
        first += rows * width
    num_rows = first // width
    samplers = Samplers.greedy(
        first=np.arange(num_rows, dtype=np.uint32) * np.uint32(width),
        num_drafts=np.full(num_rows, width - 1, np.uint32),
    )
    return StepPlan(
        model=0,
        kv_ops=np.zeros((0, 6), np.uint32),
        rects=rects,
        tokens=np.zeros(first, np.uint32),
        positions=np.tile(np.arange(context, context + width, dtype=np.uint32), num_rows),
        samplers=samplers,
        sampled=np.arange(first, dtype=np.uint32),
        noise_keys=np.zeros((first, 2), np.uint32),
    )
