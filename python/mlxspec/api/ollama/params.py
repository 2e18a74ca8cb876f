"""Ollama's request bodies: the fields we act on. All others are accepted and ignored."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from mlxspec.api.bounds import Name, Penalty, Repetition, Temperature, TopK, Unit

KeepAlive = Annotated[str, Meta(max_length=64)] | float | None
"""How long the model is to stay in memory: "10m", seconds, or negative for always."""


class Options(Struct, frozen=True, kw_only=True):
    """How to sample and when to stop. `num_predict` below zero means: no limit."""

    num_predict: Annotated[int, Meta(ge=-2)] | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Unit | None = None
    min_p: Unit | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    draft_num_predict: Annotated[int, Meta(ge=0)] | None = None
    repeat_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None


class CommonParams(Struct, frozen=True, kw_only=True):
    """What generate and chat share; streaming is the default."""

    model: Name
    stream: bool | None = None
    options: Options | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: KeepAlive = None
    think: bool | str | None = None
    logprobs: bool | None = None


class GenerateParams(CommonParams, frozen=True, kw_only=True):
    """Body of POST /api/generate."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    images: list[str] | None = None


class ChatMessage(Struct, frozen=True, kw_only=True):
    """One message of the conversation."""

    role: Name
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(Struct, frozen=True, kw_only=True):
    """What a tool is called and what it takes."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None


class OfferedTool(Struct, frozen=True, kw_only=True):
    """A tool that the model may call."""

    type: str | None = None
    function: Function


class ChatParams(CommonParams, frozen=True, kw_only=True):
    """Body of POST /api/chat."""

    messages: Annotated[list[ChatMessage], Meta(max_length=2048)] | None = None
    tools: Annotated[list[OfferedTool], Meta(max_length=1024)] | None = None


class ModelParams(Struct, frozen=True, kw_only=True):
    """Body of the endpoints that name a model, by the new key or the old one."""

    model: str = ""
    name: str = ""
    stream: bool | None = None
