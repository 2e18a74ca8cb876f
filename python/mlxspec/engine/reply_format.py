"""How a model marks reasoning and tool calls in its text: mlx-lm's knowledge, by tokenizer."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from mlx_lm.generate import TextStateMachine, make_text_state_machine
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

from mlxspec.engine.call_shape import call_shape
from mlxspec.engine.reply import ReplyParser
from mlxspec.engine.reply_grammar import ReplyGrammar
from mlxspec.engine.request import ChatOptions


class ReplyFormat:
    """The markers of one model. Thread-safe."""

    def __init__(self, wrapper: TokenizerWrapper) -> None:
        self._wrapper = wrapper
        self._with_tools = _machine(wrapper)
        self._without_tools = _machine(_with_calls(wrapper, None, None))
        self._forced = _machine(
            _with_calls(wrapper, json_tools.tool_call_start, json_tools.tool_call_end)
        )
        self.markers: tuple[str, ...] = _markers(wrapper)
        """All strings that are in no part of a reply."""

    def parser(self, chat: ChatOptions, prompt_end: str) -> ReplyParser:
        """A parser of one reply; `prompt_end` is where the template left off."""
        return ReplyParser(
            machine=self._machine_for(chat),
            section=self._first_section(prompt_end),
            read_calls=self._reader(chat.tools),
            marker=self._wrapper.tool_call_start or "",
            max_calls=None if chat.parallel_tool_calls else 1,
        )

    def grammars(self, added: Mapping[str, int]) -> ReplyGrammar:
        """What makes grammars of replies; `added` are the ids of tokens beside the vocabulary."""
        wrapper = self._wrapper
        parser = wrapper.init_kwargs.get("tool_parser_type") if wrapper.has_tool_calling else None
        known = not wrapper.response_transitions
        return ReplyGrammar(
            call_shape(parser, added) if known else None,
            wrapper.tool_call_start,
            (wrapper.think_start, wrapper.think_end) if wrapper.has_thinking else None,
            added,
        )

    def thinks_from(self, prompt_end: str) -> bool:
        """Whether a reply begins with reasoning, its marker being the prompt's end."""
        return self._first_section(prompt_end) == "reasoning"

    @property
    def thinking_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The markers around reasoning, as tokens; None for a model that marks none."""
        wrapper = self._wrapper
        if not wrapper.has_thinking:
            return None
        return tuple(wrapper.think_start_tokens), tuple(wrapper.think_end_tokens)

    def _machine_for(self, chat: ChatOptions) -> TextStateMachine | None:
        """Models that were taught no calls make them where they must, in JSON."""
        if chat.tools and self._wrapper.has_tool_calling:
            return self._with_tools
        return self._forced if chat.must_call else self._without_tools

    def _first_section(self, prompt_end: str) -> str:
        """Templates of models that always think end prompts with the opening marker."""
        if self._wrapper.has_thinking and prompt_end.rstrip().endswith(self._wrapper.think_start):
            return "reasoning"
        return self._wrapper.response_initial_state or "normal"

    def _reader(self, tools: list[dict[str, Any]]) -> Callable[[str], Any]:
        read = self._wrapper.tool_parser or json_tools.parse_tool_call
        return lambda text: read(text, tools)


def _machine(wrapper: TokenizerWrapper | SimpleNamespace) -> TextStateMachine | None:
    """mlx-lm's machine for these markers; None where there are none."""
    return make_text_state_machine(wrapper) if _markers(wrapper) else None


def _with_calls(wrapper: TokenizerWrapper, start: str | None, end: str | None) -> SimpleNamespace:
    """The wrapper as a model with these markers of calls; without, what looks like one is text."""
    return SimpleNamespace(
        has_tool_calling=start is not None,
        tool_call_start=start,
        tool_call_end=end,
        has_thinking=wrapper.has_thinking,
        think_start=wrapper.think_start,
        think_end=wrapper.think_end,
        structural_markers=wrapper.structural_markers,
        response_transitions=wrapper.response_transitions,
    )


def _markers(wrapper: TokenizerWrapper | SimpleNamespace) -> tuple[str, ...]:
    markers = [wrapper.think_start, wrapper.think_end]
    markers += [wrapper.tool_call_start, wrapper.tool_call_end]
    markers += wrapper.structural_markers
    markers += [text for edges in wrapper.response_transitions.values() for text, _ in edges]
    return tuple(marker for marker in markers if marker)
