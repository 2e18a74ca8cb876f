"""Tool calls and reasoning of a really started server.

The model is the demo model with a template that knows tools and with two of its unused tokens
renamed to thinking markers: it calls because it has done so before.
"""

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from server_process import started

TEMPLATE = """
{%- if tools %}<|im_start|>system
You may call these tools: {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for tool_call in message.tool_calls or [] %}
{%- if tool_call.function is defined %}{% set tool_call = tool_call.function %}{% endif %}
<tool_call>
{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking and reasoning_effort is defined %}<think>
{% endif %}{% endif %}"""

MARKERS = {"<jupyter_start>": "<think>", "<jupyter_text>": "</think>"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def question(city: str) -> dict[str, Any]:
    return {"role": "user", "content": f"How is the weather in {city}?"}


def call(city: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    calls = [{"id": city, "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


HISTORY = [question("Rome"), call("Rome"), question("Oslo"), call("Oslo"), question("Paris")]


@pytest.fixture(scope="module")
def caller_folder(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with the template, and with thinking markers in its vocabulary."""
    folder = tmp_path_factory.mktemp("models") / "caller"
    weights = "model.safetensors"
    shutil.copytree(demo_folder, folder, ignore=shutil.ignore_patterns(weights))
    (folder / weights).symlink_to(demo_folder / weights)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokens = (folder / "tokenizer.json").read_text()
    for unused, marker in MARKERS.items():
        assert unused in tokens
        tokens = tokens.replace(unused, marker)
    (folder / "tokenizer.json").write_text(tokens)
    return folder


@pytest.fixture(scope="module")
def caller_url(caller_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("caller") / "log", caller_folder) as url:
        yield url


@pytest.fixture
async def caller(caller_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{caller_url}/v1", api_key="none", timeout=120) as client:
        yield client


async def ask(client: AsyncOpenAI, **fields: Any) -> Any:
    [model] = (await client.models.list()).data
    body: dict[str, Any] = {
        "messages": HISTORY,
        "temperature": 0,
        "max_tokens": 60,
        **fields,
    }
    return await client.chat.completions.create(model=model.id, **body)


async def test_a_call_comes_out_as_one_and_the_tool_answers(caller: AsyncOpenAI) -> None:
    answer = await ask(caller, tools=[TOOL])
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    history = [
        *HISTORY,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    after = await ask(caller, tools=[TOOL], messages=history)
    assert after.choices[0].finish_reason in {"stop", "length", "tool_calls"}
    assert after.usage.prompt_tokens > answer.usage.prompt_tokens


async def test_a_streamed_call_is_the_same_call(caller: AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await ask(caller, tools=[TOOL], stream=True)]
    deltas = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
    assert {piece.index for piece in deltas} == {0}
    assert deltas[0].id
    assert deltas[0].function.name == "get_weather"
    arguments = "".join(piece.function.arguments for piece in deltas)
    assert json.loads(arguments) == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_without_tools_the_call_is_text(caller: AsyncOpenAI) -> None:
    for fields in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        [choice] = (await ask(caller, **fields)).choices
        assert choice.message.tool_calls is None
        assert "<tool_call>" in choice.message.content


async def test_thinking_that_the_template_opens_is_not_the_answer(caller: AsyncOpenAI) -> None:
    answer = await ask(caller, reasoning_effort="low", max_tokens=8)
    message = answer.choices[0].message
    assert message.content == ""
    assert message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens == 8
    plain = await ask(caller, reasoning_effort="none", max_tokens=8)
    assert plain.choices[0].message.content
    assert plain.usage.completion_tokens_details.reasoning_tokens == 0


async def test_a_history_that_forgets_its_reasoning_is_reused_up_to_it(caller: AsyncOpenAI) -> None:
    """What was thought is in the cached row, and not in the next turn's prompt."""

    async def turn(messages: list[dict[str, Any]], salt: str) -> Any:
        how = {"reasoning_effort": "low", "max_tokens": 8, "extra_body": {"cache_salt": salt}}
        return await ask(caller, messages=messages, **how)

    first = (await turn(HISTORY, "a")).usage
    assert first.completion_tokens_details.reasoning_tokens == 8
    later = [*HISTORY, {"role": "assistant", "content": "It is mild."}, question("Cairo")]
    reused, fresh = await turn(later, "a"), await turn(later, "b")
    opened = 2  # the line that the template opens to think, which the answer took the place of
    assert reused.usage.prompt_tokens_details.cached_tokens == first.prompt_tokens - opened
    assert fresh.usage.prompt_tokens_details.cached_tokens == 0
    thoughts = [it.choices[0].message.reasoning_content for it in (reused, fresh)]
    assert thoughts[0] == thoughts[1] != ""


CLOCK = {
    "type": "function",
    "function": {
        "name": "set_alarm",
        "parameters": {
            "type": "object",
            "properties": {
                "hour": {"type": "integer", "minimum": 0, "maximum": 23},
                "sound": {"enum": ["bell", "horn"]},
            },
            "required": ["hour", "sound"],
        },
    },
}


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 1.2, "seed": 3}], ids=str)
async def test_a_named_tool_is_called_with_arguments_of_its_schema(
    caller: AsyncOpenAI, how: dict[str, Any]
) -> None:
    named = {"type": "function", "function": {"name": "set_alarm"}}
    [choice] = (await ask(caller, tools=[TOOL, CLOCK], tool_choice=named, **how)).choices
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    for call in choice.message.tool_calls:
        assert call.function.name == "set_alarm"
        arguments = json.loads(call.function.arguments)
        assert arguments.keys() == {"hour", "sound"}
        assert 0 <= arguments["hour"] <= 23
        assert arguments["sound"] in {"bell", "horn"}


async def test_a_required_call_is_the_same_without_speculation(caller: AsyncOpenAI) -> None:
    texts = []
    for enabled in (True, False):
        extra = {"speculative": {"enabled": enabled}}
        asked = {"tools": [CLOCK, TOOL], "tool_choice": "required", "parallel_tool_calls": False}
        [choice] = (await ask(caller, **asked, extra_body=extra)).choices
        [call] = choice.message.tool_calls
        texts.append((call.function.name, call.function.arguments))
    assert texts[0] == texts[1]


async def test_a_strict_tool_is_called_as_it_declares(caller: AsyncOpenAI) -> None:
    """Left alone the model copies the calls it has seen: a name for the city."""
    parameters = {"type": "object", "properties": {"city": {"enum": ["Bonn", "Ulm"]}}}
    function = {"name": "get_weather", "strict": True, "parameters": parameters}
    answer = await ask(caller, tools=[{"type": "function", "function": function}])
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments).get("city", "Ulm") in {"Bonn", "Ulm"}


async def test_thinking_ends_where_its_budget_says(caller: AsyncOpenAI) -> None:
    budget = {"thinking_token_budget": 5}
    whole = await ask(caller, reasoning_effort="low", max_tokens=20, extra_body=budget)
    [choice] = whole.choices
    assert choice.message.reasoning_content
    assert choice.message.content
    details = whole.usage.completion_tokens_details
    assert details.reasoning_tokens == 6, "the marker that ends it is the last of them"
    chunks = await ask(
        caller, reasoning_effort="low", max_tokens=20, extra_body=budget, stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    assert text == choice.message.content
    off = {**budget, "speculative": {"enabled": False}}
    plain = await ask(caller, reasoning_effort="low", max_tokens=20, extra_body=off)
    assert plain.choices[0].message == choice.message
