"""OpenAI's request bodies: the fields we act on. All others are accepted and ignored."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mlxspec.api.bounds import (
    Name,
    NumDrafts,
    NumTokens,
    Penalty,
    Priority,
    Repetition,
    Temperature,
    TokenId,
    TopK,
    Unit,
)
from mlxspec.api.openai.service_tier import Tier

TokenIds = Annotated[list[TokenId], Meta(min_length=1, max_length=4096)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
BadWord = Annotated[str, Meta(min_length=1, max_length=256)]
Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1024)]
Copies = Annotated[int, Meta(ge=1, le=128)]
StopStrings = str | Annotated[list[str], Meta(max_length=8)]


class StreamOptions(Struct, frozen=True):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class Speculative(Struct, frozen=True):
    """Speculative decoding of this one request."""

    enabled: bool = True
    num_speculative_tokens: NumDrafts | None = None


class JsonSchema(Struct, frozen=True):
    """A schema by name; it is enforced whether `strict` or not."""

    schema: dict[str, Any] | None = None


class ResponseFormat(Struct, frozen=True):
    """The form the answer must have."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StructuredOutputs(Struct, frozen=True):
    """vLLM's ways to say what the text must be; one of them."""

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None


class CommonParams(Struct, frozen=True, kw_only=True):
    """What chat and text completions share. Clients send null for "default" in any field."""

    model: Name
    temperature: Temperature | None = None
    top_p: Unit | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    seed: int | None = None
    max_tokens: NumTokens | None = None
    stop: StopStrings | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_format: Literal["sse", "ndjson"] | None = None
    speculative: Speculative | None = None
    service_tier: Tier | None = None
    priority: Priority | None = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None
    n: Copies | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    logit_bias: Annotated[dict[str, Bias | None], Meta(max_length=1024)] | None = None
    min_tokens: NumTokens | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Annotated[list[BadWord], Meta(max_length=128)] | None = None
    xtc_probability: Unit | None = None
    xtc_threshold: Annotated[float, Meta(ge=0, le=0.5)] | None = None


class ContentPart(Struct, frozen=True):
    """One part of a message; only text parts can be answered."""

    type: Name
    text: str | None = None


class ChatMessage(Struct, frozen=True, kw_only=True):
    """One message of the conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class FunctionDefinition(Struct, frozen=True, omit_defaults=True):
    """A function: its name, and the JSON schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Struct, frozen=True):
    """A tool that the client runs. Types other than `function` are not told to the model."""

    type: Name
    function: FunctionDefinition | None = None


class NamedFunction(Struct, frozen=True):
    """A function by its name."""

    name: Name


class NamedTool(Struct, frozen=True):
    """A tool by its type and name."""

    type: Name
    function: NamedFunction | None = None


class AllowedTools(Struct, frozen=True):
    """Some of the tools: those that the model may call now."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = []


class ToolChoice(Struct, frozen=True):
    """One tool that the model must call, or the tools that it may call."""

    type: Name
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class Prediction(Struct, frozen=True):
    """The answer as the client expects it: a text, or text parts."""

    content: str | list[ContentPart]
    type: Literal["content"] = "content"


class ChatParams(CommonParams, frozen=True, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=2048)]
    max_completion_tokens: NumTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    thinking_token_budget: NumTokens | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: str | None = None
    continue_final_message: bool | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: list[str] | None = None
    prediction: Prediction | None = None


class CompletionParams(CommonParams, frozen=True, kw_only=True):
    """Body of POST /v1/completions."""

    prompt: str | list[TokenId | str | list[TokenId]]
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Meta(ge=0, le=128)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
