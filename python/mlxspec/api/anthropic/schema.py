"""Anthropic's answers as they go on the wire; a `type` is also the name of a stream's event."""

from typing import Literal, Self

from msgspec import UNSET, Struct, UnsetType

from mlxspec.engine.request import RequestMetrics, Usage

StopReason = Literal["end_turn", "max_tokens", "stop_sequence"]


class MessageUsage(Struct, frozen=True, kw_only=True):
    """Anthropic's token counts."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """The counts of one generation so far."""
        return cls(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)


class TextBlock(Struct, frozen=True, kw_only=True):
    """Text of the answer."""

    type: Literal["text"] = "text"
    text: str


class Answer(Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/messages; the `metrics` are ours."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[TextBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    metrics: RequestMetrics | UnsetType = UNSET


class MessageStart(Struct, frozen=True, kw_only=True):
    """The first event: the answer, still empty."""

    type: Literal["message_start"] = "message_start"
    message: Answer


class BlockStart(Struct, frozen=True, kw_only=True):
    """A content block begins, still empty."""

    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: TextBlock


class TextDelta(Struct, frozen=True, kw_only=True):
    """New text."""

    type: Literal["text_delta"] = "text_delta"
    text: str


class BlockDelta(Struct, frozen=True, kw_only=True):
    """More of the block."""

    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: TextDelta


class BlockStop(Struct, frozen=True, kw_only=True):
    """The block is whole."""

    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class Ending(Struct, frozen=True, kw_only=True):
    """Why the answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None = None


class MessageDelta(Struct, frozen=True, kw_only=True):
    """The last but one event; the `metrics` are ours."""

    type: Literal["message_delta"] = "message_delta"
    delta: Ending
    usage: MessageUsage
    metrics: RequestMetrics


class MessageStop(Struct, frozen=True, kw_only=True):
    """The last event."""

    type: Literal["message_stop"] = "message_stop"


class Ping(Struct, frozen=True, kw_only=True):
    """A sign of life."""

    type: Literal["ping"] = "ping"


class TokenCount(Struct, frozen=True):
    """Answer of POST /v1/messages/count_tokens."""

    input_tokens: int
