"""Anthropic's dialect: messages whole and streamed, counts, models, errors."""

import asyncio
import json
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import Peer

from mlxspec.api.anthropic.params import MessagesParams
from mlxspec.engine.request import ChatOptions, Delta, SamplingParams, ToolCall
from mlxspec.errors import ContextLengthError, EngineError, QueueFullError, UnavailableError

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"


def body(**fields: Any) -> dict[str, Any]:
    """A minimal messages body, and whatever a test adds."""
    messages = [{"role": "user", "content": "hi"}]
    return {"model": "demo", "max_tokens": 9, "messages": messages, **fields}


def events(text: str) -> list[tuple[str, Any]]:
    """(name, data) of each event; every frame must have both, in this order, and agree."""
    assert text.endswith("\n\n")
    pairs = [frame.split("\n") for frame in text.removesuffix("\n\n").split("\n\n")]
    named = [(e.removeprefix("event: "), json.loads(d.removeprefix("data: "))) for e, d in pairs]
    assert all(name == data["type"] for name, data in named)
    return named


def assert_error(response: Any, status: int, kind: str) -> str:
    """Check an answer against Anthropic's error shape; returns its message."""
    assert response.status_code == status, response.text
    answer = response.json()
    assert set(answer) == {"type", "error"}
    assert set(answer["error"]) == {"type", "message"}
    assert (answer["type"], answer["error"]["type"]) == ("error", kind)
    return str(answer["error"]["message"])


def test_the_answer_has_anthropics_keys_and_our_metrics(client: TestClient[Any]) -> None:
    response = client.post(MESSAGES, json=body())
    assert response.status_code == 200
    answer = response.json()
    assert answer.pop("metrics")["time_to_first_token_ms"] == 12.0
    assert answer == {
        "id": f"msg_{response.headers['x-request-id']}",
        "type": "message",
        "role": "assistant",
        "model": "demo",
        "content": [{"type": "text", "text": "Hello world"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "output_tokens": 2,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
        },
    }


def test_events_come_in_anthropics_order(client: TestClient[Any]) -> None:
    response = client.post(MESSAGES, json=body(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    named = events(response.text)
    assert [name for name, _ in named] == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, block, _, first, second, stop, delta, _ = [data for _, data in named]
    assert start["message"]["content"] == []
    assert start["message"]["stop_reason"] is None
    assert start["message"]["usage"]["input_tokens"] == 4
    assert block["content_block"] == {"type": "text", "text": ""}
    assert [first["delta"], second["delta"]] == [
        {"type": "text_delta", "text": "Hello"},
        {"type": "text_delta", "text": " world"},
    ]
    assert {block["index"], first["index"], second["index"], stop["index"]} == {0}
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == 2
    assert delta["metrics"]["speculative_decoding"]["num_spec_steps"] == 2


def test_an_answer_without_text_has_no_block(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = []
    assert client.post(MESSAGES, json=body()).json()["content"] == []
    named = events(client.post(MESSAGES, json=body(stream=True)).text)
    assert [name for name, _ in named] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("finish", "stopped_by", "reason"),
    [("length", None, "max_tokens"), ("stop", None, "end_turn"), ("stop", "END", "stop_sequence")],
)
def test_the_stop_reason_and_the_stop_sequence_are_told(
    client: TestClient[Any], engine: FakeEngine, finish: Any, stopped_by: str | None, reason: str
) -> None:
    engine.finish, engine.stopped_by = finish, stopped_by
    told = {"stop_reason": reason, "stop_sequence": stopped_by}
    whole = client.post(MESSAGES, json=body()).json()
    assert {key: whole[key] for key in told} == told
    [delta] = [
        data
        for name, data in events(client.post(MESSAGES, json=body(stream=True)).text)
        if name == "message_delta"
    ]
    assert delta["delta"] == told


CALL = ToolCall(index=0, id="abc", name="look", arguments='{"at": 1}')
TOOL = {"name": "look", "description": "Look.", "input_schema": {"type": "object"}}


def test_reasoning_and_calls_are_blocks_of_their_own(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.script = [Delta(reasoning="h"), Delta(reasoning="m"), "I look.", Delta(call=CALL)]
    engine.finish = "tool_calls"
    named = events(client.post(MESSAGES, json=body(stream=True, tools=[TOOL])).text)
    told = [
        data.get("content_block") or data.get("delta")
        for name, data in named
        if name in {"content_block_start", "content_block_delta"}
    ]
    assert told == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "h"},
        {"type": "thinking_delta", "thinking": "m"},
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "I look."},
        {"type": "tool_use", "id": "abc", "name": "look", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"at": 1}'},
    ]
    indices = [data["index"] for name, data in named if name.startswith("content_block")]
    assert indices == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [name for name, _ in named].count("ping") == 1
    whole = client.post(MESSAGES, json=body(tools=[TOOL])).json()
    assert whole["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "abc", "name": "look", "input": {"at": 1}},
    ]
    assert whole["stop_reason"] == named[-2][1]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("written", ["not json", "[1]", ""])
def test_arguments_that_are_no_object_are_told_as_they_are(
    client: TestClient[Any], engine: FakeEngine, written: str
) -> None:
    engine.script = [Delta(call=ToolCall(index=0, id="abc", name="look", arguments=written))]
    [block] = client.post(MESSAGES, json=body(tools=[TOOL])).json()["content"]
    assert block["input"] == {"arguments": written}


def test_tools_and_thinking_reach_the_template(client: TestClient[Any], engine: FakeEngine) -> None:
    server_tool = {"type": "web_search_20250305", "name": "web_search"}
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    fields = {"tools": [TOOL, server_tool], "tool_choice": choice, "thinking": {"type": "disabled"}}
    client.post(MESSAGES, json=body(**fields))
    budget = {"type": "enabled", "budget_tokens": 1024}
    none = {"tool_choice": {"type": "none"}, "thinking": budget}
    client.post(MESSAGES, json=body(**fields | none))
    first, second = engine.requests
    parameters = {"name": "look", "description": "Look.", "parameters": {"type": "object"}}
    assert first.chat == ChatOptions(
        tools=[{"type": "function", "function": parameters}],
        parallel_tool_calls=False,
        template_kwargs={"enable_thinking": False},
    )
    assert second.chat.tools == []
    assert second.chat.thinking_budget == 1024


def test_words_put_into_the_models_mouth_are_gone_on_with(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    messages = [*body()["messages"], {"role": "assistant", "content": "The answer is ("}]
    client.post(MESSAGES, json=body(messages=messages))
    assert engine.requests[0].chat.continue_final_message


def test_silence_is_filled_with_pings(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = [0.6, "late"]
    named = events(client.post(MESSAGES, json=body(stream=True)).text)
    before = [name for name, _ in named[: [name for name, _ in named].index("content_block_start")]]
    assert before[0] == "message_start"
    assert before[1:].count("ping") >= 2


def test_fields_reach_the_engine(client: TestClient[Any], engine: FakeEngine) -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop_sequences": ["a", "b"]}
    client.post(MESSAGES, json=body(**fields))
    [request] = engine.requests
    assert request.sampling == SamplingParams(temperature=0.5, top_p=0.9, top_k=40)
    assert request.max_tokens == 9
    assert request.stop == ("a", "b")


def test_null_fields_mean_the_defaults(client: TestClient[Any], engine: FakeEngine) -> None:
    names = set(MessagesParams.__struct_fields__) - {"model", "messages", "max_tokens"}
    client.post(MESSAGES, json=body())
    client.post(MESSAGES, json=body(**dict.fromkeys(names)))
    plain, nulls = engine.requests
    assert plain == nulls


def test_the_billing_line_is_not_part_of_the_prompt(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1a2b"},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be kind."},
    ]
    client.post(MESSAGES, json=body(system=system))
    assert engine.requests[0].prompt == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "hi"},
    ]


def test_tools_in_the_history_become_what_templates_know(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "x"}],
                },
                {"type": "tool_result", "tool_use_id": "t2", "content": "y", "is_error": True},
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    assert client.post(MESSAGES, json=body(messages=messages)).status_code == 200
    function = {"name": "look", "arguments": {"at": 1}}
    assert engine.requests[0].prompt == [
        {"role": "user", "content": "ab"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "t1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "x"},
        {"role": "tool", "tool_call_id": "t2", "content": "y"},
        {"role": "user", "content": "Well?"},
    ]


def test_what_claude_code_sends_besides_is_accepted(client: TestClient[Any]) -> None:
    ignored = {
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "metadata": {"user_id": "u"},
        "tools": [{"name": "f", "input_schema": {"type": "object"}}, {"type": "web_search"}],
        "tool_choice": {"type": "auto"},
    }
    assert client.post(f"{MESSAGES}?beta=true", json=body(**ignored)).status_code == 200


@pytest.mark.parametrize("kind", ["image", "document"])
def test_what_is_not_text_is_refused_by_name(client: TestClient[Any], kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": kind, "source": {"type": "base64"}}]}]
    response = client.post(MESSAGES, json=body(messages=messages))
    assert kind in assert_error(response, 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": None}, "max_tokens"),
        ({"stop_sequences": [""]}, "stop string"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ],
)
def test_violations_are_named_in_anthropics_shape(
    client: TestClient[Any], fields: dict[str, Any], named: str
) -> None:
    response = client.post(MESSAGES, json=body(**fields))
    assert named in assert_error(response, 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ContextLengthError("long"), 400, "invalid_request_error"),
        (QueueFullError("full"), 529, "overloaded_error"),
        (UnavailableError("loading"), 503, "overloaded_error"),
        (EngineError("broken"), 500, "api_error"),
    ],
)
def test_the_engines_refusals_have_anthropics_types(
    client: TestClient[Any], engine: FakeEngine, error: Any, status: int, kind: str
) -> None:
    engine.refusal = error
    response = client.post(MESSAGES, json=body(stream=True))
    assert assert_error(response, status, kind) == error.message
    assert ("retry-after" in response.headers) == (status in {503, 529})


def test_a_failing_step_ends_the_stream_with_an_error_event(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.script = ["Hello", EngineError("the step failed")]
    *_, (name, data) = events(client.post(MESSAGES, json=body(stream=True)).text)
    assert name == "error"
    assert data["error"] == {"type": "api_error", "message": "the step failed"}
    assert engine.generations[0].closed


async def test_leaving_mid_stream_closes_the_generation(app: Litestar, engine: FakeEngine) -> None:
    engine.script = ["Hello", asyncio.Event()]
    peer = Peer(app, MESSAGES, body(stream=True))
    running = asyncio.create_task(peer.run())
    generation = await engine.accepted.get()
    await generation.waiting.wait()
    peer.leave()
    await running
    assert generation.closed_while_running


def test_counting_tokens_generates_nothing(client: TestClient[Any], engine: FakeEngine) -> None:
    counted = client.post(COUNT, json={**body(system="Be brief."), "max_tokens": None})
    assert counted.json() == {"input_tokens": len("Be brief.") + 1 + len("hi")}
    assert engine.requests == []
    assert_error(client.post(COUNT, json=body(model="other")), 404, "not_found_error")


def test_models_are_told_in_the_dialect_of_the_client(client: TestClient[Any]) -> None:
    header = {"anthropic-version": "2023-06-01"}
    page = client.get("/v1/models", headers=header).json()
    assert page["data"][0] == {
        "type": "model",
        "id": "demo",
        "display_name": "demo",
        "created_at": "2023-11-14T22:13:20Z",
        "lifecycle": "active",
        "max_input_tokens": 4096,
    }
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("demo", "org/other", False)
    assert client.get("/v1/models/org/other", headers=header).json()["id"] == "org/other"
    assert_error(client.get("/v1/models/none", headers=header), 404, "not_found_error")
