"""Structured outputs through the real server, as openai-python asks for them."""

import json
import re
from typing import Any

import httpx
import jsonschema
import pytest
from openai import AsyncOpenAI, BadRequestError

MESSAGES: Any = [{"role": "user", "content": "Describe a person as JSON: name, age, colours."}]
PLAIN = {"speculative": {"enabled": False}}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
}


async def text_of(client: AsyncOpenAI, **options: Any) -> str:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 160, **options}
    answer = await client.chat.completions.create(model="demo", messages=MESSAGES, **asked)
    assert answer.choices[0].finish_reason == "stop"
    return str(answer.choices[0].message.content)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.9, "seed": 4}], ids=str)
async def test_a_schema_is_kept_with_and_without_speculation(
    client: AsyncOpenAI, how: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {
        "type": "json_schema",
        "json_schema": {"name": "person", "strict": True, "schema": SCHEMA},
    }
    text = await text_of(client, response_format=asked, **how)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert await text_of(client, response_format=asked, extra_body=PLAIN, **how) == text


async def test_regex_and_choice_are_kept(client: AsyncOpenAI) -> None:
    outputs = {"structured_outputs": {"regex": "[A-Z][a-z]{3,9}, [0-9]{1,2}"}}
    assert re.fullmatch("[A-Z][a-z]{3,9}, [0-9]{1,2}", await text_of(client, extra_body=outputs))
    assert await text_of(client, extra_body={"guided_choice": ["yes", "no"]}) in {"yes", "no"}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
        {"guided_regex": "("},
        {"guided_regex": "a", "min_tokens": 3},
    ],
)
async def test_a_form_that_cannot_be_is_400(client: AsyncOpenAI, fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as refused:
        await text_of(client, extra_body=fields)
    assert refused.value.param in fields


async def test_a_model_that_was_taught_no_calls_makes_one_where_it_must(
    client: AsyncOpenAI,
) -> None:
    function = {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "green"]}},
            "required": ["colour"],
        },
    }
    answer = await client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        temperature=0,
        max_tokens=80,
        tools=[{"type": "function", "function": function}],  # type: ignore[typeddict-item]
        tool_choice="required",
        parallel_tool_calls=False,
    )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["colour"] in {"red", "green"}


async def test_other_dialects_keep_to_their_forms(server: str) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    schema["additionalProperties"] = False
    user = [{"role": "user", "content": "One or two?"}]
    asked: list[tuple[str, dict[str, Any]]] = [
        (
            "/v1/responses",
            {
                "input": "One or two?",
                "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
            },
        ),
        (
            "/v1/messages",
            {
                "messages": user,
                "max_tokens": 50,
                "output_config": {"format": {"type": "json_schema", "schema": schema}},
            },
        ),
        ("/api/chat", {"messages": user, "format": schema, "stream": False}),
    ]
    async with httpx.AsyncClient(base_url=server, timeout=120) as http:
        answers = [
            (await http.post(path, json={"model": "demo", **body})).json() for path, body in asked
        ]
    response, message, line = answers
    texts = [
        response["output"][0]["content"][0]["text"],
        message["content"][0]["text"],
        line["message"]["content"],
    ]
    assert all(json.loads(text)["n"] in {1, 2} for text in texts), texts
