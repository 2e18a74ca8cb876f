"""Ollama's dialect: lines and whole answers, measured times, models, errors."""

import asyncio
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import Peer, ndjson_lines

from mlxspec.api.ollama.params import Options
from mlxspec.engine.request import ChatOptions, Delta, SamplingParams, ToolCall
from mlxspec.errors import EngineError, QueueFullError

GENERATE = "/api/generate"
CHAT = "/api/chat"
MEASURED = {
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 7,
    "prompt_eval_duration": 11_000_000,
    "eval_count": 2,
    "eval_duration": 5_000_000,
}
"""The script's counts and times: 12 ms to the first token, 1 ms of them queued, 5 ms between."""


def chat(**fields: Any) -> dict[str, Any]:
    """A minimal chat body, and whatever a test adds."""
    return {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **fields}


def assert_error(response: Any, status: int) -> str:
    """Check an answer against Ollama's error shape; returns its sentence."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return str(response.json()["error"])


def assert_measured(line: dict[str, Any]) -> None:
    assert {name: line[name] for name in MEASURED} == MEASURED
    assert 1_000_000 <= line["load_duration"] < line["total_duration"] + 1_000_000


def test_a_chat_streams_lines_unless_told_not_to(client: TestClient[Any]) -> None:
    response = client.post(CHAT, json=chat())
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, last = ndjson_lines(response.text)
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "Hello"},
        {"role": "assistant", "content": " world"},
    ]
    assert [set(line) for line in lines] == [{"model", "created_at", "done", "message"}] * 2
    assert last["message"] == {"role": "assistant", "content": ""}
    assert_measured(last)
    assert last["metrics"]["speculative_decoding"]["num_spec_steps"] == 2


def test_without_a_stream_all_is_one_object(client: TestClient[Any]) -> None:
    whole = client.post(CHAT, json=chat(stream=False)).json()
    assert whole["model"] == "demo"
    assert whole["message"] == {"role": "assistant", "content": "Hello world"}
    assert_measured(whole)


def test_a_prompt_is_put_into_the_template_unless_raw(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    body = {"model": "demo", "prompt": "hi", "system": "Be brief.", "stream": False}
    assert client.post(GENERATE, json=body).json()["response"] == "Hello world"
    client.post(GENERATE, json={**body, "raw": True})
    templated, raw = engine.requests
    assert templated.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]
    assert raw.prompt == "hi"


def test_options_reach_the_engine(client: TestClient[Any], engine: FakeEngine) -> None:
    options = {
        "num_predict": 9,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.7,
        "min_p": 0.1,
        "seed": -1,
        "stop": ["a", "b"],
        "draft_num_predict": 0,
        "num_ctx": 4096,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
    }
    assert client.post(CHAT, json=chat(options=options)).status_code == 200
    [request] = engine.requests
    assert request.sampling == SamplingParams(
        temperature=0.5,
        top_k=3,
        top_p=0.7,
        min_p=0.1,
        seed=2**64 - 1,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
    )
    assert (request.max_tokens, request.stop) == (9, ("a", "b"))
    assert not request.speculative


def test_the_defaults_are_ollamas(client: TestClient[Any], engine: FakeEngine) -> None:
    client.post(CHAT, json=chat())
    nulls = dict.fromkeys(Options.__struct_fields__)
    client.post(CHAT, json=chat(options=nulls, keep_alive=None, format=None, stream=None))
    plain, null = engine.requests
    assert plain == null
    assert plain.sampling == SamplingParams(temperature=0.8, top_k=40, top_p=0.9)
    assert plain.max_tokens is None
    assert plain.speculative


@pytest.mark.parametrize("limit", [-1, -2])
def test_a_negative_num_predict_is_no_limit(
    client: TestClient[Any], engine: FakeEngine, limit: int
) -> None:
    client.post(CHAT, json=chat(options={"num_predict": limit}))
    assert engine.requests[0].max_tokens is None


def test_the_latest_tag_means_the_model_itself(client: TestClient[Any], engine: FakeEngine) -> None:
    answer = client.post(CHAT, json=chat(model="demo:latest", stream=False)).json()
    assert answer["model"] == "demo:latest"
    assert engine.requests[0].model == "demo"


@pytest.mark.parametrize("keep_alive", ["10m", 30, -1, 0, "0"])
@pytest.mark.parametrize(
    ("path", "body"), [(GENERATE, {"prompt": ""}), (GENERATE, {}), (CHAT, {"messages": []})]
)
def test_without_a_prompt_nothing_is_generated(
    client: TestClient[Any], engine: FakeEngine, path: str, body: Any, keep_alive: Any
) -> None:
    answer = client.post(path, json={"model": "demo", "keep_alive": keep_alive, **body}).json()
    unloads = keep_alive in (0, "0")
    assert (answer["done"], answer["done_reason"]) == (True, "unload" if unloads else "load")
    seconds = {"10m": 600.0, 30: 30.0, -1: -1.0}.get(keep_alive)
    assert engine.log[1:] == ["unload demo" if unloads else f"load demo for {seconds}"]
    assert engine.requests == []
    assert_error(client.post(path, json={"model": "none", **body}), 404)


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        (CHAT, {"format": "xml"}, "format"),
        (CHAT, {"options": {"repeat_penalty": 0}}, "repeat_penalty"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "images": ["a"]}]}, "images"),
        (CHAT, {"options": {"temperature": 3}}, "temperature"),
        (CHAT, {"messages": [{"content": "x"}]}, "role"),
        (GENERATE, {"prompt": "x", "images": ["a"]}, "images"),
        (GENERATE, {"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
        (GENERATE, {"prompt": "x", "suffix": "y"}, "insert"),
        (GENERATE, {"prompt": "x", "context": [1]}, "context"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: TestClient[Any], engine: FakeEngine, path: str, fields: Any, named: str
) -> None:
    body = chat(**fields) if path == CHAT else {"model": "demo", **fields}
    assert named in assert_error(client.post(path, json=body), 400)
    assert engine.requests == []


def test_a_full_queue_is_503_as_ollamas_is(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.refusal = QueueFullError("full", retry_after=3)
    response = client.post(CHAT, json=chat())
    assert assert_error(response, 503) == "full"
    assert response.headers["retry-after"] == "3"


CALL = ToolCall(index=0, id="abc", name="look", arguments='{"at": 1}')
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_reasoning_and_calls_stand_in_their_own_fields(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.capabilities = ("completion", "tools", "thinking")
    engine.script = [Delta(reasoning="hm"), "I look.", Delta(call=CALL)]
    engine.finish = "tool_calls"
    call = {"id": "abc", "function": {"name": "look", "arguments": {"at": 1}}}
    asked = chat(tools=[TOOL], think=True)
    assert [line["message"] for line in ndjson_lines(client.post(CHAT, json=asked).text)] == [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "I look."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": ""},
    ]
    whole = client.post(CHAT, json=asked | {"stream": False}).json()
    assert whole["message"] == {
        "role": "assistant",
        "content": "I look.",
        "thinking": "hm",
        "tool_calls": [call],
    }
    assert whole["done_reason"] == "stop"
    assert engine.requests[0].chat == ChatOptions(
        tools=[{**TOOL, "function": {**TOOL["function"], "description": ""}}],
        template_kwargs={"enable_thinking": True},
    )


@pytest.mark.parametrize(
    ("think", "seen"),
    [
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
        (None, {}),
    ],
)
def test_a_wish_about_thinking_reaches_the_template(
    client: TestClient[Any], engine: FakeEngine, think: Any, seen: Any
) -> None:
    engine.capabilities = ("completion", "thinking")
    client.post(CHAT, json=chat(think=think))
    assert engine.requests[0].chat.template_kwargs == seen


@pytest.mark.parametrize("fields", [{"tools": [TOOL]}, {"think": True}, {"think": "high"}])
def test_what_the_model_cannot_do_is_refused(client: TestClient[Any], fields: Any) -> None:
    response = client.post(CHAT, json=chat(**fields))
    assert "does not support" in assert_error(response, 400)


def test_a_failing_step_is_the_last_line(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = ["Hello", EngineError("the step failed")]
    first, last = ndjson_lines(client.post(CHAT, json=chat()).text)
    assert first["message"]["content"] == "Hello"
    assert last == {"error": "the step failed"}
    assert engine.generations[0].closed


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_closes_the_generation(
    app: Litestar, engine: FakeEngine, stream: bool
) -> None:
    engine.script = ["Hello", asyncio.Event()]
    peer = Peer(app, CHAT, chat(stream=stream))
    running = asyncio.create_task(peer.run())
    generation = await engine.accepted.get()
    await generation.waiting.wait()
    peer.leave()
    await running
    assert generation.closed_while_running


def test_models_are_listed_with_size_and_kind(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.states = {"demo": "resident", "org/other": "loading"}
    listed = client.get("/api/tags").json()["models"]
    assert [model["name"] for model in listed] == ["demo", "org/other"]
    demo = listed[0]
    assert (demo["model"], demo["size"], len(demo["digest"])) == ("demo", 1000, 64)
    assert demo["details"]["family"] == "llama"
    assert demo["details"]["quantization_level"] == "4-bit"
    [running] = client.get("/api/ps").json()["models"]
    assert (running["name"], running["size_vram"]) == ("demo", 2000)
    assert (running["context_length"], running["expires_at"][:4]) == (4096, "9999")


@pytest.mark.parametrize("key", ["model", "name"])
def test_a_model_shows_its_template_context_and_capabilities(
    client: TestClient[Any], key: str
) -> None:
    shown = client.post("/api/show", json={key: "org/other"}).json()
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 4096
    assert shown["capabilities"] == ["completion"]
    assert shown["template"] == "{{ messages }}"
    assert "'none'" in assert_error(client.post("/api/show", json={key: "none"}), 404)


def test_pulling_a_served_model_succeeds_at_once(client: TestClient[Any]) -> None:
    lines = ndjson_lines(client.post("/api/pull", json={"model": "demo"}).text)
    assert lines[-1] == {"status": "success"}
    whole = client.post("/api/pull", json={"model": "demo", "stream": False})
    assert whole.json() == {"status": "success"}
    assert_error(client.post("/api/pull", json={"model": "none"}), 404)


def test_the_root_and_the_version_are_what_clients_probe(client: TestClient[Any]) -> None:
    assert client.get("/").text == "Ollama is running"
    assert client.head("/").status_code == 200
    major, minor, patch = map(int, client.get("/api/version").json()["version"].split("."))
    assert (major, minor, patch) >= (0, 13, 4)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("POST", "/api/push"),
        ("DELETE", "/api/delete"),
    ],
)
def test_missing_endpoints_say_what_to_do_instead(
    client: TestClient[Any], method: str, path: str
) -> None:
    assert ": " in assert_error(client.request(method, path, json={"model": "demo"}), 501)


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [("10m", 600.0), ("1h30m", 5400.0), ("500ms", 0.5), (5, 5.0), ("-1", -1.0), ("-5m", -300.0)],
)
def test_keep_alive_reaches_the_engine_in_seconds(
    client: TestClient[Any], engine: FakeEngine, keep_alive: Any, seconds: float
) -> None:
    client.post(CHAT, json=chat(keep_alive=keep_alive))
    assert engine.requests[0].keep_alive == pytest.approx(seconds)


def test_a_keep_alive_that_is_no_duration_is_refused(client: TestClient[Any]) -> None:
    assert "10m" in assert_error(client.post(CHAT, json=chat(keep_alive="soon")), 400)
