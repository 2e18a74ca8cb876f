"""llama.cpp's endpoints, and the plain ones."""

import asyncio
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import Peer, assert_error, sse_frames

from mlxspec.engine.request import SamplingParams
from mlxspec.errors import EngineError

TIMINGS = {
    "cache_n": 3,
    "prompt_n": 4,
    "prompt_ms": 11.0,
    "prompt_per_second": pytest.approx(4 / 0.011),
    "predicted_n": 2,
    "predicted_ms": 5.0,
    "predicted_per_second": 200.0,
    "draft_n": 4,
    "draft_n_accepted": 3,
}
"""The script's: 12 ms to the first token, 1 ms of them queued, 5 ms between tokens."""


@pytest.fixture(autouse=True)
def only_demo(engine: FakeEngine) -> None:
    """One model is served, so that none need be named."""
    engine.states = {"demo": "resident"}


def test_a_completion_tells_why_it_stopped_and_its_times(client: TestClient[Any]) -> None:
    answer = client.post("/completion", json={"prompt": "once"}).json()
    assert answer == {
        "content": "Hello world",
        "stop": True,
        "model": "demo",
        "tokens_predicted": 2,
        "tokens_evaluated": 7,
        "stop_type": "eos",
        "stopping_word": "",
        "timings": TIMINGS,
    }


def test_a_streamed_completion_has_times_in_its_last_object(client: TestClient[Any]) -> None:
    body = {"prompt": [1, 2], "stream": True}
    *frames, last = sse_frames(client.post("/completion", json=body).text)
    assert [(frame["content"], frame["stop"]) for frame in frames] == [
        ("Hello", False),
        (" world", False),
    ]
    assert not any("timings" in frame for frame in frames)
    assert (last["content"], last["stop"], last["timings"]) == ("", True, TIMINGS)


@pytest.mark.parametrize(
    ("finish", "stopped_by", "told"),
    [("length", None, ("limit", "")), ("stop", "END", ("word", "END"))],
)
def test_the_stop_type_is_told(
    client: TestClient[Any], engine: FakeEngine, finish: Any, stopped_by: Any, told: Any
) -> None:
    engine.finish, engine.stopped_by = finish, stopped_by
    answer = client.post("/completion", json={"prompt": "once"}).json()
    assert (answer["stop_type"], answer["stopping_word"]) == told


def test_completion_fields_and_defaults_are_llamacpps(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    client.post("/completion", json={"prompt": "once", "n_predict": -1, "seed": -1})
    fields = {
        "temperature": 0,
        "top_k": 0,
        "top_p": 1,
        "min_p": 0,
        "seed": 5,
        "repeat_penalty": 1.1,
    }
    client.post("/completion", json={"prompt": "once", "n_predict": 3, "stop": "a", **fields})
    defaults, chosen = engine.requests
    assert defaults.sampling == SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    assert defaults.max_tokens is None
    assert chosen.sampling == SamplingParams(temperature=0, seed=5, repetition_penalty=1.1)
    assert (chosen.max_tokens, chosen.stop) == (3, ("a",))


def test_a_text_is_filled_in_between_two_others(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    body = {"input_prefix": "def ", "input_suffix": "return a", "prompt": "f", "n_predict": 3}
    answer = client.post("/infill", json=body).json()
    assert (answer["content"], answer["timings"]) == ("Hello world", TIMINGS)
    [asked] = engine.requests
    assert (asked.prompt, asked.suffix, asked.max_tokens) == ("def f", "return a", 3)
    *_, last = sse_frames(client.post("/infill", json={**body, "stream": True}).text)
    assert last["stop"] is True


def test_a_failing_step_ends_the_stream_with_an_error_frame(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.script = ["Hello", EngineError("the step failed")]
    *_, last = sse_frames(client.post("/completion", json={"prompt": "x", "stream": True}).text)
    assert last["error"]["message"] == "the step failed"


def test_texts_and_tokens_turn_into_each_other(client: TestClient[Any]) -> None:
    answer = client.post("/tokenize", json={"content": "ab"}).json()
    assert answer == {"tokens": [97, 98], "count": 2, "max_model_len": 4096}
    back = client.post("/detokenize", json={"tokens": [97, 98]}).json()
    assert back == {"content": "ab", "prompt": "ab"}


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"content": "a"}, [97]),
        ({"content": "a", "add_special": True}, [1, 97]),
        ({"prompt": "a"}, [1, 97]),
        ({"prompt": "a", "add_special_tokens": False}, [97]),
        ({"messages": [{"role": "user", "content": "a"}]}, [97]),
        ({"content": "a", "with_pieces": True}, [{"id": 97, "piece": "a"}]),
    ],
)
def test_special_tokens_are_each_servers_own_default(
    client: TestClient[Any], fields: Any, tokens: Any
) -> None:
    assert client.post("/tokenize", json={"model": "demo", **fields}).json()["tokens"] == tokens


def test_the_template_can_be_seen_at_work(client: TestClient[Any]) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    assert client.post("/apply-template", json=body).json() == {"prompt": "look\nhi"}


def test_props_tell_the_context_and_the_template(client: TestClient[Any]) -> None:
    props = client.get("/props").json()
    assert props["default_generation_settings"] == {"n_ctx": 4096}
    assert (props["total_slots"], props["model_alias"]) == (64, "demo")
    assert props["chat_template"] == "{{ messages }}"
    assert props["modalities"] == {"vision": False, "audio": False}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/completion", {"prompt": "x"}),
        ("/tokenize", {"content": "x"}),
        ("/detokenize", {"tokens": [1]}),
        ("/apply-template", {"messages": [{"role": "user", "content": "x"}]}),
        ("/generate", {"prompt": "x"}),
        ("/batch_generate", {"prompts": ["x"]}),
    ],
)
def test_a_model_must_be_named_where_several_are_served(
    client: TestClient[Any], engine: FakeEngine, path: str, body: Any
) -> None:
    engine.states = {"a": "resident", "b": "resident"}
    assert "a, b" in assert_error(client.post(path, json=body), 400, "model")
    assert client.post(path, json={**body, "model": "b"}).status_code == 200
    assert client.post(path, json={**body, "model": "none"}).status_code == 404


def test_nothing_to_tokenize_is_refused(client: TestClient[Any]) -> None:
    assert_error(client.post("/tokenize", json={}), 400)


def test_a_plain_prompt_gets_its_text_and_figures(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    body = {"prompt": "once", "max_tokens": 9, "temperature": 0, "stop": ["a"], "seed": 1}
    answer = client.post("/generate", json=body).json()
    assert (answer["model"], answer["text"], answer["finish_reason"]) == (
        "demo",
        "Hello world",
        "stop",
    )
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"] == 3
    [request] = engine.requests
    assert request.sampling == SamplingParams(temperature=0, seed=1)
    assert (request.max_tokens, request.stop, request.prompt) == (9, ("a",), "once")


def test_a_batch_answers_in_order_with_figures_of_the_whole(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    body = {"prompts": ["a", "b", "c"], "speculative": False}
    answer = client.post("/batch_generate", json=body).json()
    assert [result["text"] for result in answer["results"]] == ["Hello world"] * 3
    assert [request.prompt for request in engine.requests] == ["a", "b", "c"]
    assert not any(request.speculative for request in engine.requests)
    assert answer["completion_tokens"] == 6
    rate = answer["completion_tokens"] / answer["total_ms"] * 1e3
    assert answer["tokens_per_second"] == pytest.approx(rate)


async def test_leaving_a_batch_closes_all_of_it(app: Litestar, engine: FakeEngine) -> None:
    engine.script = ["Hello", asyncio.Event()]
    peer = Peer(app, "/batch_generate", {"prompts": ["a", "b"]})
    running = asyncio.create_task(peer.run())
    for generation in [await engine.accepted.get() for _ in range(2)]:
        await generation.waiting.wait()
    peer.leave()
    await running
    assert all(generation.closed_while_running for generation in engine.generations)
