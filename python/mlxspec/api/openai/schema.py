"""OpenAI's answers, as they go on the wire: encoded once, by `api.stream.encode`."""

from collections.abc import Sequence
from typing import Literal, Self

from msgspec import UNSET, Struct, UnsetType

from mlxspec import __version__
from mlxspec.api.openai.logprobs import ChatLogprobs, PromptLogprobs, TextLogprobs
from mlxspec.api.openai.service_tier import UsedTier
from mlxspec.api.timings import Timings
from mlxspec.engine.request import FinishReason, RequestMetrics, Usage

SYSTEM_FINGERPRINT = f"mlxspec-{__version__}"


class CompletionTokensDetails(Struct, frozen=True):
    """What the completion's tokens are, in part, and of a prediction's what verification said."""

    reasoning_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class PromptTokensDetails(Struct, frozen=True):
    """How many of the prompt's tokens were found in the prefix cache."""

    cached_tokens: int


class TokenUsage(Struct, frozen=True):
    """OpenAI's token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def total(cls, usages: Sequence[Usage], copies: int = 1) -> Self:
        """The sum over all choices of one answer; `copies` neighbours share a prompt."""
        prompt = sum(usage.prompt_tokens for usage in usages[::copies])
        completion = sum(usage.completion_tokens for usage in usages)
        details = CompletionTokensDetails(
            reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
            accepted_prediction_tokens=sum(usage.accepted_prediction_tokens for usage in usages),
            rejected_prediction_tokens=sum(usage.rejected_prediction_tokens for usage in usages),
        )
        cached = PromptTokensDetails(sum(usage.cached_tokens for usage in usages))
        return cls(prompt, completion, prompt + completion, cached, details)


class FunctionWords(Struct, frozen=True, kw_only=True):
    """Which function, and its arguments as JSON text; in a stream one after the other."""

    name: str | UnsetType = UNSET
    arguments: str


class FunctionCall(Struct, frozen=True, kw_only=True):
    """A call of a tool; in a stream only its first part has an id and a type."""

    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionWords


class AssistantMessage(Struct, frozen=True, kw_only=True):
    """The whole answer of a chat."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    """The same again: clients read one name or the other."""
    tool_calls: list[FunctionCall] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True, kw_only=True):
    """The one choice of a chat answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: list[ChatChoice]
    usage: TokenUsage
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    service_tier: UsedTier | UnsetType = UNSET
    metrics: RequestMetrics | UnsetType | None = UNSET
    timings: Timings | UnsetType | None = UNSET


class ChatDelta(Struct, frozen=True, kw_only=True):
    """What is new in a chat; what is unset is left out."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[FunctionCall] | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    """The one choice of a chat chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(Struct, frozen=True, kw_only=True):
    """One frame of a streamed chat; `usage` is null until the last frame, if asked for at all."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: list[ChatChunkChoice]
    usage: TokenUsage | UnsetType | None = UNSET
    service_tier: UsedTier | UnsetType = UNSET
    metrics: RequestMetrics | UnsetType | None = UNSET
    timings: Timings | UnsetType | None = UNSET


class TextChoice(Struct, frozen=True, kw_only=True):
    """Text of one prompt: the whole of it, or what is new in a stream."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class TextCompletion(Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/completions, and one frame of it when streamed."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str = SYSTEM_FINGERPRINT
    choices: list[TextChoice]
    usage: TokenUsage | UnsetType | None = UNSET
    service_tier: UsedTier | UnsetType = UNSET
    metrics: RequestMetrics | UnsetType | None = UNSET
    timings: Timings | UnsetType | None = UNSET


class Model(Struct, frozen=True, kw_only=True):
    """A served model; `state` and `context_length` are ours."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mlxspec"
    state: str
    context_length: int | None


class ModelList(Struct, frozen=True, kw_only=True):
    """Answer of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[Model]
