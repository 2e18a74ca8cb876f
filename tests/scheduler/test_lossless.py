"""The oracle of the whole: what is drafted, who shares the batch, and how often a request is
preempted change nothing about its tokens."""

import random
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from layouts import BUCKET_BYTES, EXACT, PADDED
from oracle import mlx_lm_greedy
from samplings import SAMPLINGS
from texts import prompts
from token_engine import TokenEngine, token_engine

from mlxspec._scheduler import PredictionTooLongError
from mlxspec.engine import runner, step_costs
from mlxspec.engine.model_facts import DEVICE_SHAPES, DeviceShape
from mlxspec.model.forward import CompiledForward
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.plan import StepPlan
from mlxspec.speculative.step import Target

pytestmark = pytest.mark.usefixtures("drafts_look_free")


@pytest.fixture(params=[EXACT, PADDED], ids=["exact", "padded"])
def engine(
    request: pytest.FixtureRequest, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TokenEngine]:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", request.param)
    with token_engine(tiny_folder) as running:
        yield running


def test_greedy_is_mlx_lms_own_greedy_with_and_without_drafts(
    engine: TokenEngine, tiny_folder: Path
) -> None:
    for prompt in prompts(6):
        expected = mlx_lm_greedy(tiny_folder, prompt, 40)
        assert engine.generate(prompt, 40, speculate=False) == expected
        assert engine.generate(prompt, 40) == expected


def test_drafts_are_made_and_many_are_kept(engine: TokenEngine) -> None:
    answers = [engine.result(engine.submit(prompt, 200)) for prompt in prompts(6)]
    kept = sum(count * times for it in answers for count, times in enumerate(it.accepted))
    assert kept > 100
    assert kept <= sum(it.num_draft_tokens for it in answers)
    counters = engine.scheduler.counters()
    assert counters["drafted_per_pos"][0] == counters["num_drafts"]
    longer = zip(counters["drafted_per_pos"], counters["accepted_per_pos"], strict=True)
    assert all(drafted >= accepted for drafted, accepted in longer)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_ragged_batch_of_eight_joining_and_leaving_gets_what_each_gets_alone(
    engine: TokenEngine, name: str
) -> None:
    options = SAMPLINGS[name]
    asked = [(prompt, 5 + 7 * at) for at, prompt in enumerate(prompts(12, seed=11))]
    alone = [
        engine.generate(prompt, size, seed=at, speculate=False, **options)
        for at, (prompt, size) in enumerate(asked)
    ]
    running = []
    for at, (prompt, size) in enumerate(asked):
        running.append(engine.submit(prompt, size, seed=at, **options))
        if at >= 4:
            engine.pump()
    answers = [engine.result(request) for request in running]
    assert [answer.tokens for answer in answers] == alone
    assert sum(sum(answer.accepted[1:]) for answer in answers) > 0, "no draft was kept"
    assert engine.generate(*asked[-1], seed=len(asked) - 1, **options) == alone[-1]


def test_each_way_to_draw_beside_all_others_gets_what_it_gets_alone(engine: TokenEngine) -> None:
    asked = list(zip(prompts(len(SAMPLINGS), seed=21), SAMPLINGS.values(), strict=True))
    alone = [engine.generate(it, 60, seed=5, speculate=False, **how) for it, how in asked]
    running = [engine.submit(prompt, 60, seed=5, **options) for prompt, options in asked]
    assert [engine.result(request).tokens for request in running] == alone


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_predictions_right_and_wrong_change_no_token(
    engine: TokenEngine, temperature: float
) -> None:
    wrong = [47] * 30
    for prompt in prompts(4, seed=8):
        options = {"temperature": temperature, "seed": 4}
        plain = engine.generate(prompt, 60, speculate=False, **options)
        corrected = [*plain[:20], 46, *plain[21:]]
        for prediction in (plain, corrected, wrong, plain[::-1]):
            answer = engine.result(engine.submit(prompt, 60, prediction=prediction, **options))
            assert answer.tokens == plain
            assert sum(answer.predicted) <= 2 * answer.num_draft_tokens


def test_a_right_prediction_is_drafted_from_the_second_token_on(engine: TokenEngine) -> None:
    prompt = random.Random(1).sample(range(48), 40)
    plain = engine.generate(prompt, 60, temperature=1.0, seed=5, speculate=False)
    right = engine.result(engine.submit(prompt, 60, temperature=1.0, seed=5, prediction=plain))
    verified, kept = right.predicted
    assert right.tokens == plain
    assert kept >= 0.8 * len(plain)
    assert verified == kept
    wrong = engine.result(engine.submit(prompt, 60, temperature=1.0, seed=5, prediction=[1] * 60))
    assert wrong.predicted[1] <= 2


def test_a_prediction_longer_than_the_context_is_refused(engine: TokenEngine) -> None:
    engine.generate([1, 2, 3], 2, prediction=[1] * 1024)
    with pytest.raises(PredictionTooLongError, match="1025 tokens, the context holds 1024"):
        engine.submit([1, 2, 3], 2, prediction=[1] * 1025)


def test_seeds_differ_and_repeat(engine: TokenEngine) -> None:
    prompt = prompts(1)[0]
    first = engine.generate(prompt, temperature=1.0, seed=1)
    assert engine.generate(prompt, temperature=1.0, seed=1) == first
    assert engine.generate(prompt, temperature=1.0, seed=2) != first


def test_a_request_that_outgrows_its_row_goes_on_in_a_longer_one(
    engine: TokenEngine, tiny_folder: Path
) -> None:
    prompt = prompts(2)[1]
    assert engine.generate(prompt, 600) == mlx_lm_greedy(tiny_folder, prompt, 600)


@pytest.mark.parametrize("shape", [EXACT, PADDED], ids=["exact", "padded"])
def test_sliding_windows_are_kept_with_drafts_and_without(
    windowed_folder: Path, monkeypatch: pytest.MonkeyPatch, shape: DeviceShape
) -> None:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", shape)
    with token_engine(windowed_folder) as engine:
        for prompt in prompts(4, seed=2):
            expected = mlx_lm_greedy(windowed_folder, prompt, 60)
            assert engine.generate(prompt, 60) == expected


@pytest.mark.parametrize("shape", [EXACT, PADDED], ids=["exact", "padded"])
def test_compiled_steps_come_to_the_same_tokens(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, shape: DeviceShape
) -> None:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", shape._replace(slab_slots=2))
    forwards: list[CompiledForward] = []

    def compiled(target: Target, *, padded: bool, **_: object) -> StepCosts:
        target.network.compiled = CompiledForward(target.network, padded=padded)
        forwards.append(target.network.compiled)
        return StepCosts(step_cost=[(1, 1.0), (64, 1.0)], rect_cost=0.0)

    monkeypatch.setattr(step_costs, "measure", compiled)
    with token_engine(tiny_folder, max_draft=2) as engine:
        asked = prompts(3, seed=6)
        running = [engine.submit(prompt, 40) for prompt in asked]
        answers = [engine.result(request).tokens for request in running]
    assert answers == [mlx_lm_greedy(tiny_folder, prompt, 40) for prompt in asked]
    assert all(it.num_traced for it in forwards)


@pytest.mark.parametrize("shape", [EXACT, PADDED], ids=["exact", "padded"])
@pytest.mark.parametrize("name", ["temperature", "xtc", "frequency_penalty", "banned"])
def test_preempted_requests_come_to_the_same_tokens(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, shape: DeviceShape, name: str
) -> None:
    options = {**SAMPLINGS[name], "seed": 1}
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", shape)
    asked = prompts(6, seed=5)
    with token_engine(tiny_folder, kv_bytes=64 * BUCKET_BYTES) as roomy:
        alone = [roomy.generate(it, 300, speculate=False, **options) for it in asked]
    with token_engine(tiny_folder, kv_bytes=6 * BUCKET_BYTES) as tight:
        running = [tight.submit(prompt, 300, **options) for prompt in asked]
        answers = [tight.result(request) for request in running]
    assert sum(answer.preemptions for answer in answers) > 0
    assert [answer.tokens for answer in answers] == alone


def test_junk_behind_every_row_changes_nothing(
    engine: TokenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step, everything behind a row's last token is overwritten with large values."""
    asked = prompts(8, seed=9)
    clean = [engine.generate(prompt, 60) for prompt in asked]
    original = runner.run_step

    def poisoned(target: Target, plan: StepPlan) -> mx.array | None:
        answer = original(target, plan)
        ends: dict[tuple[int, int], int] = {}
        kept = [] if answer is None else answer.tolist()[: len(plan.samplers.first)]
        rows = zip(
            plan.samplers.first.tolist(), plan.samplers.num_drafts.tolist(), kept, strict=True
        )
        rejected = {
            int(plan.sampled[first + 1 + draft])
            for first, drafts, keeps in rows
            for draft in range(keeps, drafts)
        }
        for rect in plan.rects:
            for at in range(rect.first, rect.stop):
                row = (rect.slab, rect.slot + (at - rect.first) // rect.width)
                if at not in rejected:
                    ends[row] = max(ends.get(row, 0), int(plan.positions[at]) + 1)
        for (slab, slot), end in ends.items():
            for array in target.store.slabs[slab].arrays():
                array[slot, :, end:] = 1e4
        return answer

    monkeypatch.setattr(runner, "run_step", poisoned)
    running = [engine.submit(prompt, 60) for prompt in asked]
    assert [engine.result(request).tokens for request in running] == clean


def test_an_abort_frees_the_row_within_a_step(engine: TokenEngine) -> None:
    request = engine.submit(prompts(1)[0], 900)
    while engine.num_tokens(request) < 5:
        engine.pump()
    engine.scheduler.abort(request)
    engine.scheduler.abort(request)
    assert engine.result(request).reason == "abort"
    engine.generate([1], 1)
    counters = engine.scheduler.counters()
    assert counters["kv_blocks_used"] == counters["kv_blocks_cached"]
    engine.scheduler.abort(request)


def test_a_step_that_fails_ends_its_own_requests_and_no_other(
    engine: TokenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(3, seed=4)
    clean = [engine.generate(prompt, 30) for prompt in asked]
    original = runner.run_step
    failures = iter([True])

    def failing(target: Target, plan: StepPlan) -> mx.array | None:
        if len(plan.samplers.first) > 0 and next(failures, False):
            raise RuntimeError("[METAL] out of memory, as a test would have it")
        return original(target, plan)

    monkeypatch.setattr(runner, "run_step", failing)
    assert engine.result(engine.submit(asked[0], 30)).reason == "error"
    assert [engine.generate(prompt, 30) for prompt in asked] == clean
    assert engine.scheduler.counters()["step_errors"] == 1


def test_fixed_drafts_are_verified_whether_they_pay_or_not_and_change_nothing(
    tiny_folder: Path, layout: DeviceShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    dear = StepCosts(step_cost=[(1, 1.0), (64, 64.0)], rect_cost=1.0)
    monkeypatch.setattr(step_costs, "measure", lambda *_, **__: dear)
    asked = prompts(8, seed=6)
    drafted = {}
    for adaptive in (True, False):
        with token_engine(tiny_folder, adaptive=adaptive, max_draft=8) as engine:
            running = [engine.submit(prompt, 40) for prompt in asked]
            answers = [engine.result(request) for request in running]
        assert [it.tokens for it in answers] == [mlx_lm_greedy(tiny_folder, it, 40) for it in asked]
        drafted[adaptive] = sum(answer.num_draft_tokens for answer in answers)
    assert drafted[True] < 20
    assert drafted[False] > 200
