"""Tools and reasoning in chats: what the engine is asked, and how its parts are worded."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, assert_error, chat, sse_frames, usage

from mlxspec.engine.request import ChatOptions, Delta, ToolCall

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ADD = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
SUB = {"type": "function", "function": {"name": "sub", "description": "-"}}
CALLS = [
    ToolCall(index=0, id="call00001", name="add", arguments='{"a": 1}'),
    ToolCall(index=1, id="call00002", name="sub", arguments="{}"),
]
SCRIPT = [
    Delta(reasoning="hm", num_tokens=3),
    Delta(text="I call.", num_tokens=2),
    *(Delta(call=call, num_tokens=4) for call in CALLS),
]


@pytest.fixture
def calling(engine: FakeEngine) -> FakeEngine:
    """An engine whose model thinks, speaks, and calls two tools."""
    engine.script, engine.finish = SCRIPT, "tool_calls"
    return engine


def test_an_answer_has_reasoning_text_and_calls(
    client: TestClient[Any], calling: FakeEngine
) -> None:
    answer = client.post(CHAT, json=chat(tools=[ADD, SUB])).json()
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "I call.",
        "refusal": None,
        "reasoning_content": "hm",
        "reasoning": "hm",
        "tool_calls": [
            {
                "id": "call00001",
                "type": "function",
                "function": {"name": "add", "arguments": '{"a": 1}'},
            },
            {"id": "call00002", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
        ],
    }
    assert answer["usage"] == usage(7, 13, 3)


def test_the_content_of_mere_calls_is_null(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script, engine.finish = [Delta(call=CALLS[0])], "tool_calls"
    message = client.post(CHAT, json=chat(tools=[ADD])).json()["choices"][0]["message"]
    assert message["content"] is None
    assert "reasoning_content" not in message


def test_a_stream_names_a_call_before_its_arguments(
    client: TestClient[Any], calling: FakeEngine
) -> None:
    *frames, done = sse_frames(client.post(CHAT, json=chat(tools=[ADD], stream=True)).text)
    assert done == "[DONE]"
    assert [frame["choices"][0]["delta"] for frame in frames] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm", "reasoning": "hm"},
        {"content": "I call."},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "add", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
        {
            "tool_calls": [
                {
                    "index": 1,
                    "id": "call00002",
                    "type": "function",
                    "function": {"name": "sub", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert [frame["choices"][0]["finish_reason"] for frame in frames] == [None] * 7 + ["tool_calls"]


def options(client: TestClient[Any], engine: FakeEngine, **fields: Any) -> ChatOptions:
    """The chat options that a request with these fields reaches the engine with."""
    response = client.post(CHAT, json=chat(**fields))
    assert response.status_code == 200, response.text
    return engine.requests[-1].chat


def test_tools_reach_the_template_and_other_types_do_not(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    seen = options(client, engine, tools=[ADD, {"type": "namespace"}, SUB])
    assert seen.tools == [ADD, SUB]
    assert seen.parallel_tool_calls


def test_a_model_is_not_told_of_tools_it_must_not_call(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    assert options(client, engine, tools=[ADD], tool_choice="none").tools == []
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "sub"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert options(client, engine, tools=[ADD, SUB], tool_choice=choice).tools == [SUB]


def test_parallel_calls_can_be_declined(client: TestClient[Any], engine: FakeEngine) -> None:
    assert not options(client, engine, tools=[ADD], parallel_tool_calls=False).parallel_tool_calls


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"chat_template_kwargs": {"x": 1, "thinking": True}}, {"x": 1, "thinking": True}),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
            {"enable_thinking": False},
        ),
    ],
)
def test_fields_on_reasoning_become_the_templates_variables(
    client: TestClient[Any], engine: FakeEngine, fields: dict[str, Any], seen: dict[str, Any]
) -> None:
    assert options(client, engine, **fields).template_kwargs == seen


def test_a_budget_of_reasoning_reaches_the_engine(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    assert options(client, engine, thinking_token_budget=7).thinking_budget == 7
    assert options(client, engine).thinking_budget is None


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_comes_back_in_history_by_one_name(
    client: TestClient[Any], engine: FakeEngine, name: str
) -> None:
    messages = [{"role": "assistant", "content": "a", name: "hm"}, {"role": "user", "content": "b"}]
    options(client, engine, messages=messages)
    assert engine.requests[0].prompt[0] == {
        "role": "assistant",
        "content": "a",
        "reasoning_content": "hm",
    }


def test_only_an_assistants_message_can_be_continued(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    messages = [*chat()["messages"], {"role": "assistant", "content": "It is"}]
    assert options(
        client, engine, messages=messages, continue_final_message=True
    ).continue_final_message
    response = client.post(CHAT, json=chat(continue_final_message=True))
    assert_error(response, 400, "continue_final_message")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [ADD] * 129}, "tools"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: TestClient[Any], engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    assert_error(client.post(CHAT, json=chat(**fields)), 400, param)
    assert engine.requests == []
