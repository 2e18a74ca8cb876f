"""Anthropic's request bodies: the fields we act on. All others are accepted and ignored."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mlxspec.api.bounds import Name, NumTokens, Temperature, TopK, Unit


class Block(Struct, frozen=True, kw_only=True):
    """One content block of a message, whatever its type."""

    type: Name
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None


class InputMessage(Struct, frozen=True, kw_only=True):
    """One turn of the conversation."""

    role: Name
    content: str | list[Block]


class ToolChoice(Struct, frozen=True):
    """Whether the model must call a tool."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


class Tool(Struct, frozen=True, kw_only=True):
    """A tool of the client's, or one of Anthropic's own, which has no schema and is left out."""

    name: Name | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class OutputFormat(Struct, frozen=True):
    """The form the text must have: JSON of a schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, frozen=True):
    """How the answer shall be."""

    format: OutputFormat | None = None


class Thinking(Struct, frozen=True):
    """Whether the model shall reason: `enabled`, `disabled`, or as it likes; and how long."""

    type: Name
    budget_tokens: NumTokens | None = None


class CountParams(Struct, frozen=True, kw_only=True):
    """Body of POST /v1/messages/count_tokens: what makes a prompt."""

    model: Name
    messages: Annotated[list[InputMessage], Meta(min_length=1, max_length=2048)]
    system: str | list[Block] | None = None
    tools: Annotated[list[Tool], Meta(max_length=1024)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesParams(CountParams, frozen=True, kw_only=True):
    """Body of POST /v1/messages. Clients may send null for "default"."""

    max_tokens: NumTokens
    temperature: Temperature | None = None
    top_p: Unit | None = None
    top_k: TopK | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=16)] | None = None
    stream: bool | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
