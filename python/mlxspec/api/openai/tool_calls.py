"""Tool calls and reasoning on OpenAI's wire."""

from collections.abc import Iterator

from mlxspec.api.openai.schema import ChatDelta, FunctionCall, FunctionWords
from mlxspec.engine.request import Delta, ToolCall


def chat_deltas(delta: Delta) -> Iterator[ChatDelta]:
    """What a stream's client is sent of one delta: nothing, or one piece, or a call in two."""
    if delta.reasoning:
        yield ChatDelta(reasoning_content=delta.reasoning, reasoning=delta.reasoning)
    if delta.text:
        yield ChatDelta(content=delta.text)
    if delta.call:
        yield ChatDelta(tool_calls=[_opening(delta.call)])
        words = FunctionWords(arguments=delta.call.arguments)
        yield ChatDelta(tool_calls=[FunctionCall(index=delta.call.index, function=words)])


def _opening(call: ToolCall) -> FunctionCall:
    words = FunctionWords(name=call.name, arguments="")
    return FunctionCall(index=call.index, id=call.id, type="function", function=words)


def whole_call(call: ToolCall) -> FunctionCall:
    """A call in an answer that is not streamed."""
    words = FunctionWords(name=call.name, arguments=call.arguments)
    return FunctionCall(id=call.id, type="function", function=words)
