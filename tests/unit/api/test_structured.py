"""Every way to say what an answer must be becomes one grammar, or names the field at fault."""

import json
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, COMPLETIONS, assert_error, chat, completion

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "kind", "source"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema", '{"type": "object"}'),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
                }
            },
            "json_schema",
            json.dumps(SCHEMA),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, "json_schema", json.dumps(SCHEMA)),
        ({"structured_outputs": {"json_object": True}}, "json_schema", '{"type": "object"}'),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"structured_outputs": {"choice": ["a", 'b"']}}, "lark", 'start: "a" | "b\\""'),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "lark", 'start: "a"'),
        ({"guided_json": json.dumps(SCHEMA)}, "json_schema", json.dumps(SCHEMA)),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_choice": ["a"]}, "lark", 'start: "a"'),
        ({"guided_grammar": 'start: "a"'}, "lark", 'start: "a"'),
    ],
)
def test_each_way_becomes_a_grammar(
    client: TestClient[Any], engine: FakeEngine, fields: dict[str, Any], kind: str, source: str
) -> None:
    assert client.post(CHAT, json=chat(**fields)).status_code == 200
    assert client.post(COMPLETIONS, json=completion(**fields)).status_code == 200
    for request in engine.requests:
        assert request.grammar is not None
        assert (request.grammar.kind, request.grammar.source) == (kind, source)
        assert request.grammar.param.split(".")[0] in fields


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}])
def test_a_free_text_has_none(
    client: TestClient[Any], engine: FakeEngine, fields: dict[str, Any]
) -> None:
    client.post(CHAT, json=chat(**fields))
    assert engine.requests[0].grammar is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema",
        ),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a", "guided_json": SCHEMA}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "grammar": "b"}}, "structured_outputs.grammar"),
    ],
)
def test_broken_and_contradicting_forms_are_named(
    client: TestClient[Any], engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    assert_error(client.post(CHAT, json=chat(**fields)), 400, param)
    assert engine.requests == []
