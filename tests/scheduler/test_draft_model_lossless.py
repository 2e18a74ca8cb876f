"""A draft model changes no token; a copy of the target is always right, so its KV is whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from costs import say_cheap
from layouts import BUCKET_BYTES, PADDED
from samplings import SAMPLINGS
from texts import prompts
from token_engine import TokenEngine, token_engine

from mlxspec.engine import step_costs
from mlxspec.engine.model_facts import DEVICE_SHAPES
from mlxspec.model.forward import CompiledForward
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.draft_model import DraftModel
from mlxspec.speculative.step import Target

READING_DRAFTS = {name for name in SAMPLINGS if "penalty" in name} | {"banned", "everything"}
"""Their logits depend on the drafts before them, which a draft model has yet to write."""

WRITTEN_FOR = [name for name in SAMPLINGS if name not in READING_DRAFTS]


pytestmark = pytest.mark.usefixtures("drafts_look_cheap")


@pytest.fixture
def copied(tiny_folder: Path, layout: None) -> Iterator[TokenEngine]:
    """The target drafts for itself."""
    with token_engine(tiny_folder, shared_suffix_bytes=0, draft_model=tiny_folder) as running:
        yield running


@pytest.fixture
def misled(tiny_folder: Path, stranger_folder: Path, layout: None) -> Iterator[TokenEngine]:
    """A model drafts that knows nothing of the target."""
    with token_engine(tiny_folder, shared_suffix_bytes=0, draft_model=stranger_folder) as running:
        yield running


def model_drafts(engine: TokenEngine) -> tuple[int, int]:
    """Draft tokens of the draft model: verified, kept."""
    name, proposed, accepted = engine.scheduler.counters()["drafters"][-1]
    assert name == "draft_model"
    return proposed, accepted


def asked(size: int = 5) -> list[tuple[list[int], int]]:
    return [(prompt, size + 7 * at) for at, prompt in enumerate(prompts(12, seed=11))]


def joining_and_leaving(
    engine: TokenEngine, requests: list[tuple[list[int], int]], options: dict[str, Any]
) -> list[list[int]]:
    running = []
    for at, (prompt, size) in enumerate(requests):
        running.append(engine.submit(prompt, size, seed=at, **options))
        if at >= 4:
            engine.pump()
    return [engine.result(request).tokens for request in running]


def check_that_nothing_changes(engine: TokenEngine, options: dict[str, Any]) -> None:
    """Alone and in a ragged batch of eight, joined and left."""
    requests = asked()
    plain = [
        engine.generate(prompt, size, seed=at, speculate=False, **options)
        for at, (prompt, size) in enumerate(requests)
    ]
    assert model_drafts(engine)[0] == 0
    for at, (prompt, size) in enumerate(requests[:4]):
        assert engine.generate(prompt, size, seed=at, **options) == plain[at]
    assert joining_and_leaving(engine, requests, options) == plain


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_draft_model_changes_no_token(copied: TokenEngine, name: str) -> None:
    check_that_nothing_changes(copied, SAMPLINGS[name])
    assert (model_drafts(copied)[0] > 0) == (name not in READING_DRAFTS)


@pytest.mark.parametrize("name", ["greedy", "truncations"])
def test_a_stranger_changes_no_token_either(misled: TokenEngine, name: str) -> None:
    check_that_nothing_changes(misled, SAMPLINGS[name])
    drafted, kept = model_drafts(misled)
    assert kept < drafted


def test_behind_a_cached_prompt_a_copy_is_never_wrong_either(copied: TokenEngine) -> None:
    """Its own KV is reused with the target's: alone in the row itself, beside others in a copy."""
    chat = prompts(12, seed=11)[2]
    for others in (0, 0, 3):
        for at in range(others):
            copied.submit(chat[: 20 + at], 60, speculate=False)
        before = model_drafts(copied)[0]
        answer = copied.result(copied.submit(chat, 60))
        assert answer.tokens == copied.generate(chat, 60, speculate=False)
        assert model_drafts(copied)[0] > before
        chat = chat + answer.tokens
    assert answer.cached_tokens > 100
    drafted, kept = model_drafts(copied)
    assert drafted == kept


@pytest.mark.parametrize("name", WRITTEN_FOR)
def test_a_copy_of_the_target_is_never_wrong(copied: TokenEngine, name: str) -> None:
    """One missing or stale position of its KV would show as a rejected draft."""
    requests = asked(60)
    for prompt, size in requests[:2]:
        copied.generate(prompt, size, **SAMPLINGS[name])
    joining_and_leaving(copied, requests, SAMPLINGS[name])
    drafted, kept = model_drafts(copied)
    assert drafted == kept > 80


def test_drafts_from_text_and_of_the_model_mix(copied: TokenEngine) -> None:
    running = [copied.submit(prompt, 200) for prompt in prompts(8, seed=11)]
    from_all = sum(copied.result(request).num_draft_tokens for request in running)
    drafted, kept = model_drafts(copied)
    assert 0 < drafted < from_all
    assert drafted == kept, "drafts from text leave the draft model behind"


def test_preempted_requests_are_read_again(tiny_folder: Path, layout: None) -> None:
    requests = prompts(6, seed=5)
    with token_engine(tiny_folder, kv_bytes=64 * BUCKET_BYTES) as roomy:
        alone = [roomy.generate(p, 300, temperature=0.7, seed=1, speculate=False) for p in requests]
    with token_engine(
        tiny_folder, shared_suffix_bytes=0, draft_model=tiny_folder, kv_bytes=12 * BUCKET_BYTES
    ) as tight:
        running = [tight.submit(prompt, 300, temperature=0.7, seed=1) for prompt in requests]
        answers = [tight.result(request) for request in running]
        drafted, kept = model_drafts(tight)
    assert sum(answer.preemptions for answer in answers) > 0
    assert [answer.tokens for answer in answers] == alone
    assert drafted == kept > 100


def test_a_stranger_that_costs_is_soon_left_alone(
    tiny_folder: Path, stranger_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_cheap(monkeypatch, draft_ms=0.4)
    with token_engine(tiny_folder, shared_suffix_bytes=0, draft_model=stranger_folder) as engine:
        for prompt in prompts(8):
            engine.generate(prompt, 200)
        drafted, kept = model_drafts(engine)
    assert kept < drafted // 2
    assert drafted < 100, "it goes on drafting in vain"


def test_a_draft_model_that_fails_is_given_up_and_nobody_is_harmed(
    tiny_folder: Path, layout: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = prompts(6, seed=4)
    original = DraftModel.draft
    calls = iter(range(1000))

    def failing(self: DraftModel, *arguments: object) -> object:
        if next(calls) >= 3:
            raise RuntimeError("[METAL] out of memory, as a test would have it")
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DraftModel, "draft", failing)
    with token_engine(tiny_folder, shared_suffix_bytes=0, draft_model=tiny_folder) as engine:
        alone = [engine.generate(prompt, 40, speculate=False) for prompt in requests]
        running = [engine.submit(prompt, 40) for prompt in requests]
        answers = [engine.result(request) for request in running]
        counters = engine.scheduler.counters()
    assert [answer.reason for answer in answers] == ["length"] * 6
    assert [answer.tokens for answer in answers] == alone
    assert counters["step_errors"] == 1
    assert next(calls) == 4, "it was asked again"


def test_compiled_draft_models_are_never_wrong_either(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", PADDED._replace(slab_slots=2))

    def compiled(target: Target, **_: object) -> StepCosts:
        target.network.compiled = CompiledForward(target.network, padded=True)
        ms = 1.0 if target.takes_drafter else 0.02
        return StepCosts(step_cost=[(1, ms), (64, ms)], rect_cost=0.0)

    monkeypatch.setattr(step_costs, "measure", compiled)
    requests = prompts(3, seed=6)
    with token_engine(
        tiny_folder, shared_suffix_bytes=0, draft_model=tiny_folder, max_draft=2
    ) as engine:
        plain = [engine.generate(prompt, 40, speculate=False) for prompt in requests]
        running = [engine.submit(prompt, 40) for prompt in requests]
        assert [engine.result(request).tokens for request in running] == plain
        drafted, kept = model_drafts(engine)
    assert drafted == kept > 10
