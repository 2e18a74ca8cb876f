"""Whatever architecture mlx-lm knows is served, with mlx-lm's own tokens: in our KV rows where its
state can be addressed by position, else plainly, by mlx-lm's own caches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from layouts import EXACT, PADDED
from mlx_lm.models import llama
from oracle import mlx_lm_greedy
from texts import prompts
from token_engine import TokenEngine, token_engine

from mlxspec.engine.model_facts import DEVICE_SHAPES, DeviceShape
from mlxspec.model.load import load
from mlxspec.model.state import StateStore
from mlxspec.speculative import plain_target
from mlxspec.speculative.plain_target import PlainTarget
from tiny_architectures import ADDRESSABLE, PLAIN, save_architecture

pytestmark = pytest.mark.usefixtures("drafts_look_free")


def ragged_batch(engine: TokenEngine, asked: list[list[int]]) -> list[list[int]]:
    """Requests of different lengths that join and leave while others run."""
    running = []
    for at, prompt in enumerate(asked):
        running.append(engine.submit(prompt, 5 + 7 * at))
        if at >= 3:
            engine.pump()
    return [engine.result(request).tokens for request in running]


@pytest.mark.parametrize("name", ADDRESSABLE)
def test_keys_and_values_of_any_model_lie_in_our_rows_and_are_drafted_for(
    tmp_path: Path, layout: DeviceShape, name: str
) -> None:
    folder = save_architecture(tmp_path, name)
    asked = prompts(8, seed=11)
    expected = [mlx_lm_greedy(folder, prompt, 5 + 7 * at) for at, prompt in enumerate(asked)]
    with token_engine(folder) as engine:
        assert engine.generate(asked[5], 5 + 7 * 5) == expected[5]
        assert ragged_batch(engine, asked) == expected
        drafted = engine.result(engine.submit(asked[5], 150))
    assert drafted.num_draft_tokens > 0
    assert drafted.tokens == mlx_lm_greedy(folder, asked[5], 150)


@pytest.mark.parametrize("name", PLAIN)
def test_other_models_are_decoded_plainly_alone_and_in_a_ragged_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", EXACT)
    folder = save_architecture(tmp_path, name)
    asked = prompts(8, seed=11)
    expected = [mlx_lm_greedy(folder, prompt, 5 + 7 * at) for at, prompt in enumerate(asked)]
    with token_engine(folder) as engine:
        assert engine.generate(asked[5], 5 + 7 * 5) == expected[5]
        assert ragged_batch(engine, asked) == expected
        answer = engine.result(engine.submit(asked[5], 40))
    assert (answer.num_draft_tokens, answer.cached_tokens) == (0, 0)


@pytest.fixture
def hybrid_folder(tmp_path: Path) -> Path:
    return save_architecture(tmp_path, "lfm2")


@pytest.fixture
def hybrid(hybrid_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenEngine]:
    """A model with recurrent layers and with attention, where others would be padded."""
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", PADDED)
    with token_engine(hybrid_folder) as engine:
        yield engine


def test_rows_are_decoded_one_by_one_where_they_cannot_be_together(
    hybrid_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(6, seed=11)
    expected = [mlx_lm_greedy(hybrid_folder, it, 5 + 7 * at) for at, it in enumerate(asked)]
    monkeypatch.setattr(plain_target, "batches", lambda *_: False)
    monkeypatch.setattr(StateStore, "batch", None)
    with token_engine(hybrid_folder) as engine:
        assert ragged_batch(engine, asked) == expected


def test_a_row_that_outgrows_its_slab_takes_its_state_along(
    hybrid: TokenEngine, hybrid_folder: Path
) -> None:
    asked = prompts(4, seed=6)
    running = [hybrid.submit(prompt, 300) for prompt in asked]
    answers = [hybrid.result(request).tokens for request in running]
    assert answers == [mlx_lm_greedy(hybrid_folder, prompt, 300) for prompt in asked]


def test_seeded_samples_are_the_same_alone_and_in_a_batch(hybrid: TokenEngine) -> None:
    asked, how = prompts(6, seed=2), {"temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.5}
    alone = [hybrid.generate(it, 40, seed=at, **how) for at, it in enumerate(asked)]
    running = [hybrid.submit(it, 40, seed=at, **how) for at, it in enumerate(asked)]
    assert [hybrid.result(request).tokens for request in running] == alone


def test_several_answers_to_one_prompt_each_read_it(
    hybrid: TokenEngine, hybrid_folder: Path
) -> None:
    prompt = prompts(2)[1]
    running = [hybrid.submit(prompt, 30) for _ in range(5)]
    expected = mlx_lm_greedy(hybrid_folder, prompt, 30)
    assert [hybrid.result(request).tokens for request in running] == [expected] * 5


def test_preempted_states_are_computed_again(
    hybrid_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", EXACT)
    asked = prompts(5, seed=5)
    row_bytes = 256 * StateStore(load(hybrid_folder, mx.float32).model).bytes_per_token
    with token_engine(hybrid_folder, kv_bytes=6 * row_bytes) as tight:
        running = [tight.submit(prompt, 280) for prompt in asked]
        answers = [tight.result(request) for request in running]
    assert sum(answer.preemptions for answer in answers) > 0
    expected = [mlx_lm_greedy(hybrid_folder, prompt, 280) for prompt in asked]
    assert [answer.tokens for answer in answers] == expected


def test_aborted_rows_leave_the_batch_and_the_others_go_on(
    hybrid: TokenEngine, hybrid_folder: Path
) -> None:
    asked = prompts(6, seed=9)
    running = [hybrid.submit(prompt, 80) for prompt in asked]
    while hybrid.num_tokens(running[0]) < 20:
        hybrid.pump()
    for request in running[::2]:
        hybrid.scheduler.abort(request)
    replaced = [hybrid.submit(prompt, 40) for prompt in asked[::2]]
    assert all(hybrid.result(request).reason == "abort" for request in running[::2])
    others = [hybrid.result(request).tokens for request in running[1::2]]
    assert others == [mlx_lm_greedy(hybrid_folder, prompt, 80) for prompt in asked[1::2]]
    joined = [hybrid.result(request).tokens for request in replaced]
    assert joined == [mlx_lm_greedy(hybrid_folder, prompt, 40) for prompt in asked[::2]]


def test_a_failed_step_costs_its_requests_and_no_later_one(
    hybrid: TokenEngine, hybrid_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(4, seed=4)
    original, failures = PlainTarget.forward, iter([False] * 9 + [True])

    def failing(self: PlainTarget, *arguments: Any) -> Any:
        if next(failures, False):
            raise RuntimeError("[METAL] out of memory, as a test would have it")
        return original(self, *arguments)

    monkeypatch.setattr(PlainTarget, "forward", failing)
    running = [hybrid.submit(prompt, 30) for prompt in asked]
    assert {hybrid.result(request).reason for request in running} == {"error"}
    running = [hybrid.submit(prompt, 30) for prompt in asked]
    answers = [hybrid.result(request).tokens for request in running]
    assert answers == [mlx_lm_greedy(hybrid_folder, prompt, 30) for prompt in asked]


def test_a_draft_model_that_keeps_states_is_left_out(
    tiny_folder: Path, hybrid_folder: Path
) -> None:
    prompt = prompts(2)[1]
    with token_engine(tiny_folder, draft_model=hybrid_folder) as engine:
        assert engine.generate(prompt, 60) == mlx_lm_greedy(tiny_folder, prompt, 60)
        assert engine.scheduler.counters()["drafters"][-1] == ("draft_model", 0, 0)
    with token_engine(hybrid_folder, draft_model=tiny_folder) as engine:
        assert engine.generate(prompt, 60) == mlx_lm_greedy(hybrid_folder, prompt, 60)


def test_a_model_that_takes_positions_in_its_own_way_is_found_out(
    tiny_folder: Path, layout: DeviceShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture nobody has seen: one number is all it expects of a cache's offset."""
    original = llama.Attention.__call__

    def call(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        at = cache.offset + mx.arange(x.shape[1])
        return original(self, x + mx.sin(at)[:, None], mask, cache)

    monkeypatch.setattr(llama.Attention, "__call__", call)
    asked = prompts(4)
    expected = [mlx_lm_greedy(tiny_folder, prompt, 5 + 7 * at) for at, prompt in enumerate(asked)]
    with token_engine(tiny_folder) as engine:
        assert ragged_batch(engine, asked) == expected
        assert engine.result(engine.submit(asked[1], 60)).num_draft_tokens == 0
