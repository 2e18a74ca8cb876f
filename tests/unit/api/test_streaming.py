"""Streamed answers: frames, their order, and what ends them."""

import asyncio
import itertools
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, COMPLETIONS, chat, completion, ndjson_lines, sse_frames, usage

from mlxspec.errors import EngineError

NDJSON_ACCEPT = {"accept": "application/json;q=0.5, application/x-ndjson"}


def deltas(frames: list[Any]) -> list[tuple[Any, Any]]:
    """(delta, finish reason) of each chat chunk."""
    return [
        (frame["choices"][0]["delta"], frame["choices"][0]["finish_reason"]) for frame in frames
    ]


PLAIN_DELTAS = [
    ({"role": "assistant", "content": ""}, None),
    ({"content": "Hello"}, None),
    ({"content": " world"}, None),
    ({}, "stop"),
]


def test_sse_frames_come_in_openais_order(client: TestClient[Any]) -> None:
    response = client.post(CHAT, json=chat(stream=True))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *frames, done = sse_frames(response.text)
    assert done == "[DONE]"
    assert deltas(frames) == PLAIN_DELTAS
    assert {frame["id"] for frame in frames} == {f"chatcmpl-{response.headers['x-request-id']}"}
    assert {frame["object"] for frame in frames} == {"chat.completion.chunk"}
    assert not any("usage" in frame for frame in frames)
    assert ["metrics" in frame for frame in frames] == [False, False, False, True]


def test_usage_comes_in_one_last_chunk_without_choices(client: TestClient[Any]) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    *frames, last, done = sse_frames(client.post(CHAT, json=body).text)
    assert done == "[DONE]"
    assert deltas(frames) == PLAIN_DELTAS
    assert [frame["usage"] for frame in frames] == [None] * 4
    assert not any("metrics" in frame for frame in frames)
    assert last["choices"] == []
    assert last["usage"] == usage(7, 2)
    assert last["metrics"]["speculative_decoding"]["num_spec_steps"] == 2


@pytest.mark.parametrize("asked_by", ["accept", "field"])
def test_ndjson_has_the_same_objects_and_no_done(client: TestClient[Any], asked_by: str) -> None:
    fields = {"stream_format": "ndjson"} if asked_by == "field" else {}
    headers = NDJSON_ACCEPT if asked_by == "accept" else {}
    response = client.post(CHAT, json=chat(stream=True, **fields), headers=headers)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert deltas(ndjson_lines(response.text)) == PLAIN_DELTAS


def test_the_stream_format_field_wins_over_the_accept_header(client: TestClient[Any]) -> None:
    response = client.post(CHAT, json=chat(stream=True, stream_format="sse"), headers=NDJSON_ACCEPT)
    assert response.headers["content-type"].startswith("text/event-stream")


def test_no_token_still_has_opening_and_end(client: TestClient[Any]) -> None:
    response = client.post(CHAT, json=chat(stream=True, max_tokens=0))
    *frames, _done = sse_frames(response.text)
    assert deltas(frames) == [PLAIN_DELTAS[0], ({}, "length")]


def test_deltas_without_text_make_no_frame(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = ["", "a", ""]
    *frames, _done = sse_frames(client.post(CHAT, json=chat(stream=True)).text)
    assert [delta for delta, _ in deltas(frames)][1:] == [{"content": "a"}, {}]


def test_keepalive_comments_fill_long_silence(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = [0.6, "late"]
    frames = sse_frames(client.post(CHAT, json=chat(stream=True)).text)
    assert frames.count(": keepalive") >= 2
    assert [frame for frame in frames if isinstance(frame, dict)][1]["choices"][0]["delta"] == {
        "content": "late"
    }


def test_ndjson_has_no_keepalives(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = [0.1, "late"]
    text = client.post(CHAT, json=chat(stream=True, stream_format="ndjson")).text
    assert len(ndjson_lines(text)) == 3


def test_a_failing_step_ends_the_stream_with_an_error_frame(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.script = ["Hello", EngineError("the step failed")]
    *frames, error = sse_frames(client.post(CHAT, json=chat(stream=True)).text)
    assert deltas(frames) == PLAIN_DELTAS[:2]
    assert error == {
        "error": {
            "message": "the step failed",
            "type": "server_error",
            "param": None,
            "code": "engine_error",
        }
    }
    assert engine.generations[0].closed


def test_a_bug_mid_stream_shows_nothing_of_itself(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.script = ["Hello", ZeroDivisionError("secret prompt")]
    text = client.post(CHAT, json=chat(stream=True)).text
    assert sse_frames(text)[-1]["error"]["code"] == "internal_error"
    assert "secret" not in text
    assert "[DONE]" not in text


@pytest.mark.parametrize(
    ("finish", "code"),
    [("abort", "unavailable"), ("error", "engine_error"), (None, "engine_error")],
)
def test_a_request_the_engine_gives_up_is_an_error_not_an_answer(
    client: TestClient[Any], engine: FakeEngine, finish: Any, code: str
) -> None:
    engine.finish = finish
    streamed = client.post(CHAT, json=chat(stream=True))
    assert sse_frames(streamed.text)[-1]["error"]["code"] == code
    whole = client.post(CHAT, json=chat())
    assert whole.status_code == (503 if finish == "abort" else 500)
    assert whole.json()["error"]["code"] == code


def test_several_prompts_stream_with_their_index(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    body = completion(prompt=["a", "b", "c"], stream=True, stream_options={"include_usage": True})
    *frames, last, done = sse_frames(client.post(COMPLETIONS, json=body).text)
    assert done == "[DONE]"
    texts = dict.fromkeys(range(3), "")
    ends = []
    for choice in itertools.chain.from_iterable(frame["choices"] for frame in frames):
        texts[choice["index"]] += choice["text"]
        ends.append(choice["finish_reason"])
    assert texts == dict.fromkeys(range(3), "Hello world")
    assert ends.count("stop") == 3
    assert last["choices"] == []
    assert last["usage"] == usage(21, 6)
    assert last["metrics"] is None
    assert [request.prompt for request in engine.requests] == ["a", "b", "c"]


def test_one_failing_prompt_closes_its_siblings(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.script = ["x", EngineError("the step failed"), asyncio.Event()]
    text = client.post(COMPLETIONS, json=completion(prompt=["a", "b"], stream=True)).text
    assert "error" in sse_frames(text)[-1]
    assert all(generation.closed for generation in engine.generations)
