"""A stream's content blocks: one is open at a time, each of one kind."""

from collections.abc import Iterator
from typing import Literal

from msgspec import Raw

from mlxspec.api.answer import Completed
from mlxspec.api.anthropic.schema import (
    Block,
    BlockDelta,
    BlockStart,
    BlockStop,
    Event,
    InputJsonDelta,
    Ping,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from mlxspec.api.tool_input import tool_input
from mlxspec.engine.request import Delta, ToolCall

Kind = Literal["text", "thinking", "tool_use"]
NO_INPUT = Raw(b"{}")


class Blocks:
    """Opens, fills and closes blocks as deltas come; `close` when no more do."""

    def __init__(self) -> None:
        self._index = -1
        self._open: Kind | None = None

    def news(self, delta: Delta) -> Iterator[Event]:
        """The events of one delta."""
        if delta.reasoning:
            yield from self._enter("thinking", ThinkingBlock(""))
            yield BlockDelta(self._index, ThinkingDelta(delta.reasoning))
        if delta.text:
            yield from self._enter("text", TextBlock(""))
            yield BlockDelta(self._index, TextDelta(delta.text))
        if delta.call:
            yield from self.close()
            yield from self._enter("tool_use", _tool_use(delta.call, NO_INPUT))
            yield BlockDelta(self._index, InputJsonDelta(bytes(tool_input(delta.call)).decode()))

    def close(self) -> Iterator[Event]:
        """The end of the open block, if one is."""
        if self._open:
            self._open = None
            yield BlockStop(self._index)

    def _enter(self, kind: Kind, empty: Block) -> Iterator[Event]:
        """The start of a block unless one of its kind is open; a ping follows the very first."""
        if self._open == kind:
            return
        yield from self.close()
        self._open = kind
        self._index += 1
        yield BlockStart(self._index, empty)
        if self._index == 0:
            yield Ping()


def whole_blocks(completed: Completed) -> list[Block]:
    """The blocks of an answer that is not streamed."""
    blocks: list[Block] = []
    if completed.reasoning:
        blocks.append(ThinkingBlock(completed.reasoning))
    if completed.text:
        blocks.append(TextBlock(completed.text))
    return [*blocks, *(_tool_use(call, tool_input(call)) for call in completed.calls)]


def _tool_use(call: ToolCall, arguments: Raw) -> ToolUseBlock:
    return ToolUseBlock(call.id, call.name, arguments)
