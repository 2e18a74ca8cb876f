"""Where each of Ollama's endpoints puts what the model said."""

from typing import Any, NamedTuple

from msgspec import UNSET

from mlxspec.api.ollama.schema import Call, CalledFunction, ChatLine, ChatReply, GenerateLine
from mlxspec.api.tool_input import tool_input
from mlxspec.engine.request import ToolCall


class Said(NamedTuple):
    """What the model said, or what is new of it."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()


def chat_line(said: Said, **fields: Any) -> ChatLine:
    """A line of a chat."""
    reply = ChatReply(
        content=said.text,
        thinking=said.reasoning or UNSET,
        tool_calls=[_call(call) for call in said.calls] or UNSET,
    )
    return ChatLine(message=reply, **fields)


def generate_line(said: Said, **fields: Any) -> GenerateLine:
    """A line of a continued text."""
    return GenerateLine(response=said.text, thinking=said.reasoning or UNSET, **fields)


def _call(call: ToolCall) -> Call:
    return Call(call.id, CalledFunction(call.name, tool_input(call)))
