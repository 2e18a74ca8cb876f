"""A reply is split into reasoning, answer and tool calls, wherever its pieces are cut."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.tool_parsers import json_tools, mistral, qwen3_coder

from mlxspec.engine.reply import Part, ReplyParser
from mlxspec.engine.reply_format import ReplyFormat
from mlxspec.engine.request import ChatOptions, ToolCall

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
WITH_TOOLS = ChatOptions(tools=[TOOL])


def model(parser: Any = json_tools, thinks: bool = True) -> Any:
    """What mlx-lm's wrapper knows of a model that thinks and calls."""
    return SimpleNamespace(
        has_thinking=thinks,
        think_start="<think>" if thinks else None,
        think_end="</think>" if thinks else None,
        has_tool_calling=parser is not None,
        tool_call_start=parser.tool_call_start if parser else None,
        tool_call_end=parser.tool_call_end if parser else None,
        tool_parser=parser.parse_tool_call if parser else None,
        structural_markers=(),
        response_transitions={},
        response_initial_state=None,
    )


def read(parser: ReplyParser, pieces: list[str]) -> list[Part]:
    """All parts, neighbours of one kind joined; calls without their random ids."""
    parts: list[Part] = []
    for piece in pieces:
        parser.push(piece)
        parts += parser.take()
    parser.finish()
    parts += parser.take()
    joined: list[Part] = []
    for part in parts:
        if joined and part.text and joined[-1].text:
            joined[-1] = Part(text=joined[-1].text + part.text)
        elif joined and part.reasoning and joined[-1].reasoning:
            joined[-1] = Part(reasoning=joined[-1].reasoning + part.reasoning)
        else:
            joined.append(part)
    return joined


def parts_of(
    text: str,
    chat: ChatOptions = WITH_TOOLS,
    prompt_end: str = "",
    wrapper: Any = None,
    size: int = 1,
) -> list[Part]:
    parser = ReplyFormat(wrapper or model()).parser(chat, prompt_end)
    return read(parser, [text[at : at + size] for at in range(0, len(text), size)])


def called(part: Part) -> tuple[int, str, Any]:
    assert isinstance(part.call, ToolCall)
    assert len(part.call.id) == 9
    assert part.call.id.isalnum()
    return part.call.index, part.call.name, json.loads(part.call.arguments)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_reasoning_answer_and_calls_come_apart_at_any_cut(size: int) -> None:
    text = f"<think>\nLet me\nsee\n</think>\n\nI call:\n{CALL}\n{CALL.replace('1', '2')}\n"
    thought, said, first, second = parts_of(text, size=size)
    assert thought == Part(reasoning="Let me\nsee\n")
    assert said == Part(text="I call:\n")
    assert called(first) == (0, "add", {"a": 1})
    assert called(second) == (1, "add", {"a": 2})
    assert first.call != second.call


def test_a_prompt_that_opens_the_reasoning_is_honoured() -> None:
    parts = parts_of("hm</think>\n\nyes", prompt_end="<|assistant|>\n<think>\n")
    assert parts == [Part(reasoning="hm"), Part(text="yes")]


def test_a_marker_that_a_user_wrote_opens_nothing() -> None:
    assert parts_of("yes", prompt_end="say <think> now<|assistant|>") == [Part(text="yes")]


def test_unclosed_reasoning_stays_reasoning() -> None:
    assert parts_of("<think>hm </thi") == [Part(reasoning="hm </thi")]


def test_text_that_only_begins_like_a_marker_is_text() -> None:
    assert parts_of("a <tool_ca b < c <") == [Part(text="a <tool_ca b < c <")]


@pytest.mark.parametrize("broken", ['{"name": "add"', "[1, 2]", '{"name": 3}', "[" * 100_000])
def test_a_call_that_cannot_be_read_is_text(broken: str) -> None:
    parts = parts_of(f"ok <tool_call>{broken}</tool_call> after", size=100)
    assert parts == [Part(text=f"ok <tool_call>{broken} after")]


def test_a_call_cut_short_is_text() -> None:
    assert parts_of('<tool_call>{"name": "a') == [Part(text='<tool_call>{"name": "a')]


def test_without_tools_a_call_is_text_and_reasoning_still_comes_apart() -> None:
    parts = parts_of(f"<think>a</think>{CALL}", chat=ChatOptions())
    assert parts == [Part(reasoning="a"), Part(text=CALL)]


def test_one_call_is_enough_where_parallel_calls_are_unwanted() -> None:
    chat = ChatOptions(tools=[TOOL], parallel_tool_calls=False)
    parser = ReplyFormat(model()).parser(chat, "")
    parser.push(CALL[:-1])
    assert not parser.full
    parser.push(CALL[-1] + "\n" + CALL)
    assert parser.full
    [part] = parser.take()
    assert called(part) == (0, "add", {"a": 1})


def test_what_follows_the_last_wanted_call_is_dropped_with_it() -> None:
    parser = ReplyFormat(model()).parser(ChatOptions(tools=[TOOL], parallel_tool_calls=False), "")
    [part] = read(parser, [CALL + "\n<tool_c"])
    assert called(part) == (0, "add", {"a": 1})


def test_calls_without_an_end_marker_end_with_the_reply() -> None:
    text = '[TOOL_CALLS]add[ARGS]{"a": 1}add[ARGS]{"a": 2}'
    parts = parts_of(text, wrapper=model(mistral, thinks=False))
    assert [called(part) for part in parts] == [(0, "add", {"a": 1}), (1, "add", {"a": 2})]


def test_parsers_see_the_tools_types() -> None:
    text = "<tool_call>\n<function=add>\n<parameter=a>\n3\n</parameter>\n</function>\n</tool_call>"
    [part] = parts_of(text, wrapper=model(qwen3_coder))
    assert called(part) == (0, "add", {"a": 3})


def test_a_model_without_markers_is_read_as_it_is() -> None:
    text = f"\n<think>a</think>{CALL}"
    assert parts_of(text, wrapper=model(parser=None, thinks=False)) == [Part(text=text)]
    assert read(ReplyParser.plain(), [text]) == [Part(text=text)]


def test_a_format_of_many_messages_drops_their_headers() -> None:
    wrapper = model(parser=None, thinks=False)
    wrapper.response_initial_state = "header"
    wrapper.response_transitions = {
        "header": [("to=self|", "reasoning"), ("to=user|", "normal")],
        "reasoning": [("<end>", "header")],
        "normal": [("<end>", "header")],
    }
    parts = parts_of("to=self|hm<end>start to=user|yes", wrapper=wrapper)
    assert parts == [Part(reasoning="hm"), Part(text="yes")]
