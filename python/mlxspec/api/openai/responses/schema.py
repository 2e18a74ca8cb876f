"""Responses and their items, as they go on the wire."""

from typing import Any, Literal, Self

from msgspec import UNSET, Struct, UnsetType

from mlxspec.api.openai.service_tier import UsedTier
from mlxspec.engine.request import RequestMetrics, Usage

Status = Literal["in_progress", "completed", "incomplete"]


class OutputText(Struct, frozen=True, kw_only=True, tag="output_text"):
    """Text of an answer."""

    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class ReasoningText(Struct, frozen=True, kw_only=True, tag="reasoning_text"):
    """Text of the reasoning before an answer."""

    text: str


class MessageItem(Struct, frozen=True, kw_only=True, tag="message"):
    """What the model says."""

    id: str
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class ReasoningItem(Struct, frozen=True, kw_only=True, tag="reasoning"):
    """What the model thought."""

    id: str
    status: Status
    summary: list[Any] = []
    content: list[ReasoningText]


class CallItem(Struct, frozen=True, kw_only=True, tag="function_call"):
    """A call that the client shall answer."""

    id: str
    status: Status
    call_id: str
    name: str
    arguments: str


OutputItem = MessageItem | ReasoningItem | CallItem


class InputDetails(Struct, frozen=True):
    """What the prompt's tokens are, in part."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Struct, frozen=True):
    """What the output's tokens are, in part."""

    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True, kw_only=True):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """The counts in OpenAI's words."""
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputDetails(usage.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputDetails(usage.reasoning_tokens),
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
        )


class IncompleteDetails(Struct, frozen=True):
    """Why an answer is not whole."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Response(Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/responses; most keys repeat what was asked."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: bool = False
    error: None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: Any
    store: bool
    temperature: float
    text: Any
    tool_choice: Any
    tools: list[Any]
    top_p: float
    truncation: str
    service_tier: UsedTier | UnsetType = UNSET
    user: str | None
    usage: ResponseUsage | UnsetType = UNSET
    metrics: RequestMetrics | UnsetType = UNSET


class InputTokens(Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/responses/input_tokens."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class Deleted(Struct, frozen=True, kw_only=True):
    """Answer of DELETE /v1/responses/{id}."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
