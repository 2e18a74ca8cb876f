"""How a model marks reasoning and tool calls in its text: mlx-lm's knowledge, by tokenizer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from mlx_lm.generate import TextStateMachine, make_text_state_machine
from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxspec.engine.reply import ReplyParser
from mlxspec.engine.request import ChatOptions


class ReplyFormat:
    """The markers of one model. Thread-safe."""

    def __init__(self, wrapper: TokenizerWrapper) -> None:
        self._wrapper = wrapper
        self._with_tools = _machine(wrapper)
        self._without_tools = _machine(_without_tools(wrapper))
        self.markers: tuple[str, ...] = _markers(wrapper)
        """All strings that are in no part of a reply."""

    def parser(self, chat: ChatOptions, prompt_end: str) -> ReplyParser:
        """A parser of one reply; `prompt_end` is where the template left off."""
        return ReplyParser(
            machine=self._with_tools if chat.tools else self._without_tools,
            section=self._first_section(prompt_end),
            read_calls=self._reader(chat.tools),
            marker=self._wrapper.tool_call_start or "",
            max_calls=None if chat.parallel_tool_calls else 1,
        )

    def _first_section(self, prompt_end: str) -> str:
        """Templates of models that always think end prompts with the opening marker."""
        if self._wrapper.has_thinking and prompt_end.rstrip().endswith(self._wrapper.think_start):
            return "reasoning"
        return self._wrapper.response_initial_state or "normal"

    def _reader(self, tools: list[dict[str, Any]]) -> Callable[[str], Any]:
        return lambda text: self._wrapper.tool_parser(text, tools)


def _machine(wrapper: TokenizerWrapper | SimpleNamespace) -> TextStateMachine | None:
    """mlx-lm's machine for these markers; None where there are none."""
    return make_text_state_machine(wrapper) if _markers(wrapper) else None


def _without_tools(wrapper: TokenizerWrapper) -> SimpleNamespace:
    """The wrapper as a model that cannot call: what looks like a call stays text."""
    return SimpleNamespace(
        has_tool_calling=False,
        tool_call_start=None,
        tool_call_end=None,
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
