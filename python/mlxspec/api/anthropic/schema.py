"""Anthropic's answers as they go on the wire; an event's tag is also its name in the stream."""

from typing import Literal, Self

from msgspec import UNSET, Raw, Struct, UnsetType

from mlxspec.api.tagged import Tagged
from mlxspec.engine.request import RequestMetrics, Usage

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageUsage(Struct, frozen=True, kw_only=True):
    """Anthropic's token counts: a prompt's tokens are those computed and those read from cache."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """The counts of one generation so far."""
        return cls(
            input_tokens=usage.prompt_tokens - usage.cached_tokens,
            output_tokens=usage.completion_tokens,
            cache_read_input_tokens=usage.cached_tokens,
        )


class TextBlock(Struct, frozen=True, tag="text"):
    """Text of the answer."""

    text: str


class ThinkingBlock(Struct, frozen=True, tag="thinking"):
    """Reasoning; nobody signs it."""

    thinking: str
    signature: str = ""


class ToolUseBlock(Struct, frozen=True, tag="tool_use"):
    """The model's wish to have a tool called; `input` is an object."""

    id: str
    name: str
    input: Raw


Block = TextBlock | ThinkingBlock | ToolUseBlock


class Answer(Struct, frozen=True, kw_only=True, tag="message"):
    """Answer of POST /v1/messages; the `metrics` are ours."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    metrics: RequestMetrics | UnsetType = UNSET


class MessageStart(Tagged, frozen=True, tag="message_start"):
    """The first event: the answer, still empty."""

    message: Answer


class BlockStart(Tagged, frozen=True, tag="content_block_start"):
    """A content block begins, still empty."""

    index: int
    content_block: Block


class TextDelta(Struct, frozen=True, tag="text_delta"):
    """New text."""

    text: str


class ThinkingDelta(Struct, frozen=True, tag="thinking_delta"):
    """New reasoning."""

    thinking: str


class InputJsonDelta(Struct, frozen=True, tag="input_json_delta"):
    """A tool's input as JSON text."""

    partial_json: str


class BlockDelta(Tagged, frozen=True, tag="content_block_delta"):
    """More of the block."""

    index: int
    delta: TextDelta | ThinkingDelta | InputJsonDelta


class BlockStop(Tagged, frozen=True, tag="content_block_stop"):
    """The block is whole."""

    index: int


class Ending(Struct, frozen=True):
    """Why the answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None = None


class MessageDelta(Tagged, frozen=True, kw_only=True, tag="message_delta"):
    """The last but one event; the `metrics` are ours."""

    delta: Ending
    usage: MessageUsage
    metrics: RequestMetrics


class MessageStop(Tagged, frozen=True, tag="message_stop"):
    """The last event."""


class Ping(Tagged, frozen=True, tag="ping"):
    """A sign of life."""


Event = MessageStart | BlockStart | Ping | BlockDelta | BlockStop | MessageDelta | MessageStop


class TokenCount(Struct, frozen=True):
    """Answer of POST /v1/messages/count_tokens."""

    input_tokens: int
