"""Bodies of /v1/responses: the fields we act on. All others are accepted and ignored."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mlxspec.api.bounds import Name, NumTokens, Unit
from mlxspec.api.openai.service_tier import Tier

MAX_ITEMS = 4096


class Part(Struct, frozen=True):
    """A piece of an item's content."""

    type: Name
    text: str | None = None
    refusal: str | None = None


Content = str | list[Part]


class Item(Struct, frozen=True, kw_only=True):
    """One item of the conversation, of any type: a message if it has none."""

    type: Name = "message"
    role: str | None = None
    content: Content | None = None
    summary: list[Part] = []
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None


class ResponseTool(Struct, frozen=True, kw_only=True):
    """A tool. Types other than `function` are not told to the model."""

    type: Name
    name: Name | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Struct, frozen=True):
    """A tool by its type and name."""

    type: Name
    name: Name | None = None


class ToolChoice(Struct, frozen=True):
    """One tool that the model must call, or the tools that it may call."""

    type: Name
    name: Name | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[NamedTool] = []


class Reasoning(Struct, frozen=True):
    """How much the model shall think."""

    effort: str | None = None
    summary: str | None = None


class TextFormat(Struct, frozen=True, omit_defaults=True):
    """The form the text must have."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Struct, frozen=True):
    """How the text shall be."""

    format: TextFormat | None = None
    verbosity: str | None = None


class PromptParams(Struct, frozen=True, kw_only=True):
    """What makes a prompt: also the body of POST /v1/responses/input_tokens."""

    model: Name | None = None
    input: str | Annotated[list[Item], Meta(max_length=MAX_ITEMS)] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: Annotated[list[ResponseTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None


class ResponseParams(PromptParams, frozen=True, kw_only=True):
    """Body of POST /v1/responses."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Unit | None = None
    max_output_tokens: NumTokens | None = None
    stream: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    background: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    truncation: str | None = None
    service_tier: Tier | None = None
    user: str | None = None
