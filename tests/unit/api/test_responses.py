"""OpenAI's Responses: items in, items and numbered events out, and what is stored."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from wire import LOCAL, assert_error

from mlxspec.api.app import create_app
from mlxspec.config import Config, ResponsesConfig
from mlxspec.engine.request import ChatOptions, Delta, Message, SamplingParams, ToolCall
from mlxspec.errors import EngineError

RESPONSES = "/v1/responses"
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}
CALL = ToolCall(index=0, id="call00001", name="add", arguments='{"a": 1}')
SCRIPT = [
    Delta(reasoning="h", num_tokens=1),
    Delta(reasoning="m", num_tokens=1),
    Delta(text="I ", num_tokens=1),
    Delta(text="call", num_tokens=1),
    Delta(call=CALL, num_tokens=4),
]


def ask(given: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "input": given, **fields}


def events(text: str) -> list[dict[str, Any]]:
    """Every event, checked against its name and against OpenAI's own types."""
    frames = [frame for frame in text.removesuffix("\n\n").split("\n\n") if frame[0] != ":"]
    found = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        TypeAdapter(ResponseStreamEvent).validate_python(event)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


@pytest.fixture
def calling(engine: FakeEngine) -> FakeEngine:
    """An engine whose model thinks, speaks and calls a tool."""
    engine.script, engine.finish = SCRIPT, "tool_calls"
    return engine


def test_an_answer_is_a_response_with_what_was_asked(client: TestClient[Any]) -> None:
    answer = client.post(RESPONSES, json=ask(metadata={"a": "b"}, instructions="be"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    Response.model_validate(body, strict=False)
    assert body["id"] == f"resp_{answer.headers['x-request-id']}"
    assert body["status"] == "completed"
    assert body["metadata"] == {"a": "b"}
    assert body["instructions"] == "be"
    [item] = body["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    [part] = item["content"]
    assert part == {"type": "output_text", "text": "Hello world", "annotations": [], "logprobs": []}
    assert body["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }


def test_reasoning_text_and_calls_are_items_of_their_own(
    client: TestClient[Any], calling: FakeEngine
) -> None:
    body = client.post(RESPONSES, json=ask(tools=[ADD, {"type": "web_search"}])).json()
    Response.model_validate(body, strict=False)
    reasoning, message, call = body["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert message["content"][0]["text"] == "I call"
    assert (call["call_id"], call["name"], call["arguments"]) == ("call00001", "add", '{"a": 1}')
    assert len({item["id"] for item in body["output"]}) == 3
    assert calling.requests[0].chat.tools == [
        {
            "type": "function",
            "function": {"name": "add", "parameters": {"type": "object"}, "strict": True},
        }
    ]


def test_events_come_in_openais_order(client: TestClient[Any], calling: FakeEngine) -> None:
    response = client.post(RESPONSES, json=ask(stream=True, tools=[ADD]))
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response.text)
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert "usage" not in found[0]["response"]
    assert found[0]["response"]["status"] == "in_progress"
    last = found[-1]["response"]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert last["output"] == done
    assert [event["output_index"] for event in found if "item" in event] == [0, 0, 1, 1, 2, 2]


def test_an_answer_cut_short_says_so(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.finish = "length"
    body = client.post(RESPONSES, json=ask(max_output_tokens=2)).json()
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    *_, last = events(client.post(RESPONSES, json=ask(stream=True)).text)
    assert last["type"] == "response.incomplete"
    assert engine.requests[0].max_tokens == 2


def test_a_broken_stream_ends_with_a_numbered_error(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.script = ["Hello", EngineError("broken")]
    *_, last = events(client.post(RESPONSES, json=ask(stream=True)).text)
    assert (last["type"], last["code"], last["message"]) == ("error", "engine_error", "broken")
    assert client.get(f"{RESPONSES}/{_first_id(client, engine)}").status_code == 404


def _first_id(client: TestClient[Any], engine: FakeEngine) -> str:
    found = events(client.post(RESPONSES, json=ask(stream=True)).text)
    return str(found[0]["response"]["id"])


def prompt(client: TestClient[Any], engine: FakeEngine, given: Any, **fields: Any) -> list[Message]:
    """The messages that an input becomes."""
    response = client.post(RESPONSES, json=ask(given, **fields))
    assert response.status_code == 200, response.text
    return engine.requests[-1].prompt  # type: ignore[return-value]


def test_items_of_all_types_become_messages(client: TestClient[Any], engine: FakeEngine) -> None:
    items = [
        {"role": "developer", "content": "be"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I call", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "web_search_call", "id": "w"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "2"}],
        },
        {"type": "function_call", "call_id": "c3", "name": "f"},
    ]
    assert prompt(client, engine, items, instructions="first") == [
        {"role": "system", "content": "first"},
        {"role": "developer", "content": "be"},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "I call",
            "reasoning_content": "hm",
            "tool_calls": [_call("c1", "f"), _call("c2", "g")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "assistant", "content": "", "tool_calls": [_call("c3", "f")]},
    ]


def _call(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def test_fields_reach_the_engine(client: TestClient[Any], engine: FakeEngine) -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "tools": [ADD, {"type": "function", "name": "sub"}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [ADD]},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "none"},
    }
    prompt(client, engine, "hi", **fields)
    assert engine.requests[0].sampling == SamplingParams(temperature=0.5, top_p=0.9)
    chat = engine.requests[0].chat
    assert [tool["function"]["name"] for tool in chat.tools] == ["add"]
    assert not chat.parallel_tool_calls
    assert chat.template_kwargs == {"reasoning_effort": "none", "enable_thinking": False}
    prompt(client, engine, "hi", tools=[ADD], tool_choice="none")
    assert engine.requests[1].chat == ChatOptions()


def test_what_codex_sends_and_we_have_no_use_for_is_accepted(client: TestClient[Any]) -> None:
    ignored = {
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "client_metadata": {"a": "b"},
        "service_tier": "auto",
        "truncation": "auto",
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tools": [{"type": "namespace", "tools": []}, {"type": "custom", "name": "patch"}],
        "max_tool_calls": 3,
        "safety_identifier": "s",
        "user": "u",
        "top_logprobs": 0,
        "never_heard_of": [1],
    }
    assert client.post(RESPONSES, json=ask(**ignored)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"content": "x"}]}, "input[0]"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0]"),
        ({"input": [{"type": "function_call_output", "output": "f"}]}, "input[0]"),
        ({"input": 3}, "input"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: TestClient[Any], engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    assert_error(client.post(RESPONSES, json=ask(**fields)), 400, param)
    assert engine.requests == []


def test_a_request_without_a_model_means_the_only_one(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    assert_error(client.post(RESPONSES, json={"input": "hi"}), 400, "model")
    engine.states = {"demo": "resident"}
    assert client.post(RESPONSES, json={}).json()["model"] == "demo"
    assert engine.requests[0].prompt == [{"role": "user", "content": ""}]


def test_input_tokens_are_counted_with_the_conversation(client: TestClient[Any]) -> None:
    body = ask([{"role": "user", "content": "a"}] * 3, instructions="be")
    answer = client.post(f"{RESPONSES}/input_tokens", json=body).json()
    assert answer == {"object": "response.input_tokens", "input_tokens": len("be\na\na\na")}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stored_response_is_shown_continued_and_deleted(
    client: TestClient[Any], calling: FakeEngine, stream: bool
) -> None:
    answer = client.post(RESPONSES, json=ask("one", stream=stream, tools=[ADD], instructions="x"))
    body = events(answer.text)[-1]["response"] if stream else answer.json()
    url = f"{RESPONSES}/{body['id']}"
    assert client.get(url).json() == body
    output = [{"type": "function_call_output", "call_id": "call00001", "output": "2"}]
    assert prompt(client, calling, output, previous_response_id=body["id"]) == [
        {"role": "user", "content": "one"},
        {
            "role": "assistant",
            "content": "I call",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a": 1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call00001", "content": "2"},
    ]
    assert_error(client.post(f"{url}/cancel"), 400)
    assert client.delete(url).json() == {"id": body["id"], "object": "response", "deleted": True}
    for gone in (client.get(url), client.delete(url), client.post(f"{url}/cancel")):
        assert_error(gone, 404, code="response_not_found")
    again = client.post(RESPONSES, json=ask(previous_response_id=body["id"]))
    assert_error(again, 404, code="response_not_found")


def test_what_shall_not_be_stored_is_not(client: TestClient[Any]) -> None:
    body = client.post(RESPONSES, json=ask(store=False)).json()
    assert client.get(f"{RESPONSES}/{body['id']}").status_code == 404


@pytest.fixture
def small(engine: FakeEngine) -> Iterator[TestClient[Litestar]]:
    """An app that keeps two responses."""
    app = create_app(engine, Config(responses=ResponsesConfig(max_stored=2)))
    with TestClient(app, LOCAL) as client:
        yield client


def test_the_oldest_response_makes_room(small: TestClient[Any]) -> None:
    ids = [small.post(RESPONSES, json=ask()).json()["id"] for _ in range(3)]
    found = [small.get(f"{RESPONSES}/{one}").status_code for one in ids]
    assert found == [404, 200, 200]
