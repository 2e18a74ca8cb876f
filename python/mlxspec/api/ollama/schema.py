"""Ollama's answers as they go on the wire: one line of a stream, or the whole body."""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from mlxspec.engine.request import RequestMetrics

DoneReason = Literal["stop", "length", "load", "unload"]


class Line(Struct, frozen=True, kw_only=True):
    """What all lines share; the last one says why and when it ended.

    Durations are nanoseconds, counts are tokens. `load_duration` is all that came before the prompt
    was begun: rendering it, waiting for the model and for a place in the batch. `metrics` are ours.
    """

    model: str
    created_at: datetime
    done: bool
    done_reason: DoneReason | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    metrics: RequestMetrics | UnsetType = UNSET


class GenerateLine(Line, frozen=True, kw_only=True):
    """A line of POST /api/generate."""

    response: str
    thinking: str | UnsetType = UNSET


class CalledFunction(Struct, frozen=True):
    """Which tool the model calls; `arguments` is an object."""

    name: str
    arguments: Raw


class Call(Struct, frozen=True):
    """The model's wish to have a tool called."""

    id: str
    function: CalledFunction


class ChatReply(Struct, frozen=True, kw_only=True):
    """What the model said, or what is new of it."""

    role: Literal["assistant"] = "assistant"
    content: str
    thinking: str | UnsetType = UNSET
    tool_calls: list[Call] | UnsetType = UNSET


class ChatLine(Line, frozen=True, kw_only=True):
    """A line of POST /api/chat."""

    message: ChatReply


class ModelDetails(Struct, frozen=True, kw_only=True):
    """What kind of model it is."""

    parent_model: str = ""
    format: str = "safetensors"
    family: str
    families: list[str]
    parameter_size: str = ""
    quantization_level: str


class ListedModel(Struct, frozen=True, kw_only=True):
    """A served model; `size` in bytes."""

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: ModelDetails


class RunningModel(ListedModel, frozen=True, kw_only=True):
    """A model in memory."""

    expires_at: datetime
    size_vram: int
    context_length: int


class ModelList(Struct, frozen=True):
    """Answer of GET /api/tags."""

    models: list[ListedModel]


class RunningList(Struct, frozen=True):
    """Answer of GET /api/ps."""

    models: list[RunningModel]


class ShownModel(Struct, frozen=True, kw_only=True):
    """Answer of POST /api/show."""

    modelfile: str = ""
    parameters: str = ""
    template: str
    details: ModelDetails
    model_info: dict[str, str | int]
    capabilities: list[str]
    modified_at: datetime


class Version(Struct, frozen=True):
    """Answer of GET /api/version."""

    version: str


class Progress(Struct, frozen=True):
    """A line of POST /api/pull."""

    status: str
