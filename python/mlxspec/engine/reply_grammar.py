"""What a whole reply must be: reasoning first, if the model reasons, then calls or an answer."""

import json
from collections.abc import Mapping

from msgspec.structs import replace

from mlxspec.engine.call_grammar import JSON_OPTIONS, Speller, call_rules, calls_rule
from mlxspec.engine.call_shape import CallShape
from mlxspec.engine.grammar import check_depth
from mlxspec.engine.request import ChatOptions, GenerationRequest, Grammar, Tool
from mlxspec.errors import BadRequestError


class ReplyGrammar:
    """Makes the grammars of one model's chats.

    shape: how it writes calls; None if no grammar can say. marker: what opens its calls; None if it
    was not taught any. think: the markers around its reasoning, if it reasons.
    """

    def __init__(
        self,
        shape: CallShape | None,
        marker: str | None,
        think: tuple[str, str] | None,
        added: Mapping[str, int],
    ) -> None:
        self._shape = shape
        self._marker = marker
        self._think = think
        self._speller = Speller(added)

    def of(self, request: GenerationRequest, *, thinking: bool) -> Grammar | None:
        """The request's grammar, with the rules of its calls; `thinking`: its prompt opens
        reasoning.

        Raises BadRequestError where calls must follow rules that no grammar can say.
        """
        chat, asked = request.chat, request.grammar
        if chat.must_call:
            tools = [tool for tool in chat.tools if tool["function"]["name"] in chat.must_call]
            return self._calls("calls", replace(chat, tools=tools), "tool_choice", thinking)
        offers = bool(chat.tools) and self._marker is not None
        if asked is not None and asked.kind == "json_schema" and (offers or self._think):
            return self._answer(asked, chat, thinking)
        strict = any(tool["function"].get("strict") for tool in chat.tools)
        if asked is None and strict and self._marker is not None:
            return self._calls_in_text(chat, self._marker, thinking)
        return asked

    def _calls(self, body: str, chat: ChatOptions, param: str, thinking: bool) -> Grammar:
        """Calls alone, or with what else the body allows."""
        shape = self._known_shape(param)
        calls = calls_rule(shape, self._speller, several=chat.parallel_tool_calls)
        rules = call_rules(shape, _checked(chat.tools, param), self._speller)
        return self._grammar(body, calls + rules, param, thinking)

    def _calls_in_text(self, chat: ChatOptions, marker: str, thinking: bool) -> Grammar:
        """Any text, but what begins like a call must be one."""
        shape = self._known_shape("tools")
        begun = _begun(shape, marker)
        several = chat.parallel_tool_calls
        rules = (
            self._speller.until("until_call", marker)
            + "rest: /(?s:.*)/\n"
            + calls_rule(begun, self._speller, several=several and bool(shape.opening))
            + call_rules(begun, _checked(chat.tools, "tools"), self._speller)
        )
        body = f"(until_call calls){'*' if several else '?'} rest"
        return self._grammar(body, rules, "tools", thinking)

    def _answer(self, asked: Grammar, chat: ChatOptions, thinking: bool) -> Grammar:
        """A JSON answer, or calls where there are tools whose calls can be told from it."""
        check_depth(json.loads(asked.source), asked.param)
        schema = {**json.loads(asked.source), "x-guidance": JSON_OPTIONS}
        answer = f"answer: %json {json.dumps(schema)}\n"
        if not chat.tools or self._marker is None or self._shape is None:
            return self._grammar("answer", answer, asked.param, thinking)
        both = self._calls("(calls | answer)", chat, asked.param, thinking)
        return replace(both, source=both.source + answer)

    def _grammar(self, body: str, rules: str, param: str, thinking: bool) -> Grammar:
        """The body behind the reasoning, which is free."""
        if self._think is None:
            return Grammar(kind="lark", source=f"start: {body}\n{rules}", param=param)
        begin, end = self._think
        thought = "thought" if thinking else f"({self._speller.literal(begin)} thought)?"
        start = f'start: {thought} {body}\nthought: thinking "\\n"? "\\n"?\n'
        source = start + self._speller.until("thinking", end) + rules
        return Grammar(kind="lark", source=source, param=param)

    def _known_shape(self, param: str) -> CallShape:
        if self._shape is None:
            raise BadRequestError(
                "this model writes tool calls in a form that no grammar enforces: send tool_choice "
                "auto and tools that are not strict",
                param=param,
            )
        return self._shape


def _checked(tools: list[Tool], param: str) -> list[Tool]:
    for tool in tools:
        check_depth(tool, param)
    return tools


def _begun(shape: CallShape, marker: str) -> CallShape:
    """The shape behind the marker that opens it."""
    if shape.opening:
        return shape._replace(opening=shape.opening.removeprefix(marker))
    return shape._replace(before=shape.before.removeprefix(marker))
