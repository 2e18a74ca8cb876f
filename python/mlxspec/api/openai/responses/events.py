"""The events of a streamed response; `type` is also the event's name on the wire."""

from typing import Any, Literal

from msgspec import Struct

from mlxspec.api.openai.responses.schema import (
    OutputItem,
    OutputText,
    ReasoningText,
    Response,
)

Part = OutputText | ReasoningText


class Event(Struct, kw_only=True):
    """One event; numbered from 0 in the order of sending."""

    sequence_number: int = 0


class ResponseEvent(Event, kw_only=True):
    """The response as it stands."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
    ]
    response: Response


class ItemEvent(Event, kw_only=True):
    """An item begins or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PartEvent(Event, kw_only=True):
    """A part of an item's content begins or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: int = 0
    part: Part


class TextDelta(Event, kw_only=True):
    """New text of the answer."""

    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    item_id: str
    output_index: int
    content_index: int = 0
    delta: str
    logprobs: list[Any] = []


class TextDone(Event, kw_only=True):
    """The answer's text, whole."""

    type: Literal["response.output_text.done"] = "response.output_text.done"
    item_id: str
    output_index: int
    content_index: int = 0
    text: str
    logprobs: list[Any] = []


class ReasoningDelta(Event, kw_only=True):
    """New text of the reasoning."""

    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    item_id: str
    output_index: int
    content_index: int = 0
    delta: str


class ReasoningDone(Event, kw_only=True):
    """The reasoning, whole."""

    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    item_id: str
    output_index: int
    content_index: int = 0
    text: str


class ArgumentsDelta(Event, kw_only=True):
    """More of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Event, kw_only=True):
    """A call's arguments, whole."""

    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    item_id: str
    output_index: int
    name: str
    arguments: str


class ErrorEvent(Event, kw_only=True):
    """The stream broke: its last event."""

    type: Literal["error"] = "error"
    code: str | None
    message: str
    param: str | None
