"""Forced calls, strict tools and JSON answers: the same wish in each dialect's words."""

import json
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient

from mlxspec.engine.request import GenerationRequest, Grammar

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
NAMES = ("add", "sub")
CHAT_TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": True}}
    for name in NAMES
]
RESPONSE_TOOLS = [
    {"type": "function", "name": name, "parameters": SCHEMA, "strict": True} for name in NAMES
]
CLAUDE_TOOLS = [{"name": name, "input_schema": SCHEMA, "strict": True} for name in NAMES]


def body(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    user = [{"role": "user", "content": "hi"}]
    if path == RESPONSES:
        return {"model": "demo", "input": "hi", **fields}
    limit = {"max_tokens": 9} if path == MESSAGES else {}
    return {"model": "demo", "messages": user, **limit, **fields}


def asked(
    client: TestClient[Any], engine: FakeEngine, path: str, fields: dict[str, Any]
) -> GenerationRequest:
    response = client.post(path, json=body(path, fields))
    assert response.status_code == 200, response.text
    return engine.requests[-1]


def allowed(mode: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": "sub"}}]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("path", "fields", "names"),
    [
        (CHAT, {"tools": CHAT_TOOLS}, ()),
        (CHAT, {"tools": CHAT_TOOLS, "tool_choice": "required"}, NAMES),
        (
            CHAT,
            {
                "tools": CHAT_TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "sub"}},
            },
            ("sub",),
        ),
        (CHAT, {"tools": CHAT_TOOLS, "tool_choice": allowed("required")}, ("sub",)),
        (CHAT, {"tools": CHAT_TOOLS, "tool_choice": allowed("auto")}, ()),
        (RESPONSES, {"tools": RESPONSE_TOOLS, "tool_choice": "required"}, NAMES),
        (
            RESPONSES,
            {"tools": RESPONSE_TOOLS, "tool_choice": {"type": "function", "name": "sub"}},
            ("sub",),
        ),
        (
            RESPONSES,
            {
                "tools": RESPONSE_TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "sub"}],
                },
            },
            ("sub",),
        ),
        (MESSAGES, {"tools": CLAUDE_TOOLS, "tool_choice": {"type": "any"}}, NAMES),
        (
            MESSAGES,
            {"tools": CLAUDE_TOOLS, "tool_choice": {"type": "tool", "name": "sub"}},
            ("sub",),
        ),
        (MESSAGES, {"tools": CLAUDE_TOOLS, "tool_choice": {"type": "auto"}}, ()),
    ],
)
def test_the_engine_is_told_which_tools_must_be_called(
    client: TestClient[Any],
    engine: FakeEngine,
    path: str,
    fields: dict[str, Any],
    names: tuple[str, ...],
) -> None:
    chat = asked(client, engine, path, fields).chat
    assert chat.must_call == names
    assert {*names} <= {tool["function"]["name"] for tool in chat.tools}
    assert all(tool["function"]["strict"] for tool in chat.tools)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"tool_choice": "required"}),
        (CHAT, {"tools": CHAT_TOOLS, "tool_choice": {"type": "custom"}}),
        (
            CHAT,
            {"tools": CHAT_TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
        ),
        (RESPONSES, {"tools": RESPONSE_TOOLS, "tool_choice": {"type": "web_search"}}),
        (RESPONSES, {"tool_choice": "required"}),
        (MESSAGES, {"tools": CLAUDE_TOOLS, "tool_choice": {"type": "tool", "name": "x"}}),
        (MESSAGES, {"tool_choice": {"type": "any"}}),
    ],
)
def test_a_choice_without_its_tool_is_named(
    client: TestClient[Any], engine: FakeEngine, path: str, fields: dict[str, Any]
) -> None:
    response = client.post(path, json=body(path, fields))
    assert response.status_code == 400
    assert "tool_choice" in response.json()["error"]["message"]
    assert engine.requests == []


@pytest.mark.parametrize(
    ("path", "fields", "schema", "param"),
    [
        (
            RESPONSES,
            {"text": {"format": {"type": "json_object"}}},
            {"type": "object"},
            "text.format",
        ),
        (
            RESPONSES,
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
            SCHEMA,
            "text.format",
        ),
        (
            MESSAGES,
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            SCHEMA,
            "output_config.format",
        ),
        (
            MESSAGES,
            {"output_format": {"type": "json_schema", "schema": SCHEMA}},
            SCHEMA,
            "output_format",
        ),
        ("/api/chat", {"format": "json"}, {"type": "object"}, "format"),
        ("/api/chat", {"format": SCHEMA}, SCHEMA, "format"),
        ("/api/generate", {"prompt": "x", "format": SCHEMA}, SCHEMA, "format"),
    ],
)
def test_a_form_becomes_a_grammar(
    client: TestClient[Any], engine: FakeEngine, path: str, fields: Any, schema: Any, param: str
) -> None:
    grammar = asked(client, engine, path, fields).grammar
    assert grammar == Grammar(kind="json_schema", source=json.dumps(schema), param=param)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (RESPONSES, {"text": {"format": {"type": "text"}}}),
        (RESPONSES, {"text": {"verbosity": "low"}}),
        (MESSAGES, {"output_config": {"effort": "low"}}),
        ("/api/chat", {"format": ""}),
    ],
)
def test_a_free_text_has_none(
    client: TestClient[Any], engine: FakeEngine, path: str, fields: dict[str, Any]
) -> None:
    assert asked(client, engine, path, fields).grammar is None


def test_a_response_repeats_the_form_that_was_asked_for(client: TestClient[Any]) -> None:
    form = {"type": "json_schema", "name": "n", "schema": SCHEMA}
    answer = client.post(RESPONSES, json=body(RESPONSES, {"text": {"format": form}})).json()
    assert answer["text"]["format"] == form
