"""The output of one response as it grows: deltas in, items and their events out."""

from collections.abc import Iterator
from typing import Any

from mlxspec.api.openai.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    ItemEvent,
    PartEvent,
    ReasoningDelta,
    ReasoningDone,
    TextDelta,
    TextDone,
)
from mlxspec.api.openai.responses.schema import (
    CallItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
)
from mlxspec.engine.request import Delta, ToolCall


class Output:
    """Items in order; at most one, of text or of reasoning, is open for more."""

    def __init__(self, response_id: str) -> None:
        self._suffix = response_id.removeprefix("resp_")
        self._open: _Message | _Reasoning | None = None
        self.items: list[OutputItem] = []
        """Those that are done."""

    def take(self, delta: Delta) -> Iterator[Event]:
        """The events of a delta."""
        if delta.reasoning:
            yield from self._add(_Reasoning, delta.reasoning)
        if delta.text:
            yield from self._add(_Message, delta.text)
        if delta.call:
            yield from self.close("completed")
            yield from self._call(delta.call)

    def close(self, status: Status) -> Iterator[Event]:
        """End the open item, if one is."""
        if self._open is not None:
            item = self._open.item(status)
            yield from self._open.done()
            yield from self._end(item)
            self._open = None

    def _add(self, kind: "type[_Message | _Reasoning]", text: str) -> Iterator[Event]:
        if not isinstance(self._open, kind):
            yield from self.close("completed")
            self._open = kind(self._id(kind.prefix), len(self.items))
            yield from self._open.begin()
        yield self._open.add(text)

    def _call(self, call: ToolCall) -> Iterator[Event]:
        at, item_id = len(self.items), self._id("fc")
        begun = CallItem(
            id=item_id, status="in_progress", call_id=call.id, name=call.name, arguments=""
        )
        yield ItemEvent(type="response.output_item.added", output_index=at, item=begun)
        yield ArgumentsDelta(item_id=item_id, output_index=at, delta=call.arguments)
        yield ArgumentsDone(
            item_id=item_id, output_index=at, name=call.name, arguments=call.arguments
        )
        whole = CallItem(
            id=item_id,
            status="completed",
            call_id=call.id,
            name=call.name,
            arguments=call.arguments,
        )
        yield from self._end(whole)

    def _end(self, item: OutputItem) -> Iterator[Event]:
        at = len(self.items)
        self.items.append(item)
        yield ItemEvent(type="response.output_item.done", output_index=at, item=item)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._suffix}{len(self.items)}"


class _Message:
    """A message under way."""

    prefix = "msg"

    def __init__(self, item_id: str, at: int) -> None:
        self._id, self._at, self._texts = item_id, at, list[str]()

    def begin(self) -> Iterator[Event]:
        item = MessageItem(id=self._id, status="in_progress", content=[])
        yield ItemEvent(type="response.output_item.added", output_index=self._at, item=item)
        yield self._part("response.content_part.added", "")

    def add(self, text: str) -> Event:
        self._texts.append(text)
        return TextDelta(item_id=self._id, output_index=self._at, delta=text)

    def done(self) -> Iterator[Event]:
        text = "".join(self._texts)
        yield TextDone(item_id=self._id, output_index=self._at, text=text)
        yield self._part("response.content_part.done", text)

    def item(self, status: Status) -> MessageItem:
        text = "".join(self._texts)
        return MessageItem(id=self._id, status=status, content=[OutputText(text=text)])

    def _part(self, kind: Any, text: str) -> PartEvent:
        part = OutputText(text=text)
        return PartEvent(type=kind, item_id=self._id, output_index=self._at, part=part)


class _Reasoning:
    """A run of reasoning under way."""

    prefix = "rs"

    def __init__(self, item_id: str, at: int) -> None:
        self._id, self._at, self._texts = item_id, at, list[str]()

    def begin(self) -> Iterator[Event]:
        item = ReasoningItem(id=self._id, status="in_progress", content=[])
        yield ItemEvent(type="response.output_item.added", output_index=self._at, item=item)
        yield self._part("response.content_part.added", "")

    def add(self, text: str) -> Event:
        self._texts.append(text)
        return ReasoningDelta(item_id=self._id, output_index=self._at, delta=text)

    def done(self) -> Iterator[Event]:
        text = "".join(self._texts)
        yield ReasoningDone(item_id=self._id, output_index=self._at, text=text)
        yield self._part("response.content_part.done", text)

    def item(self, status: Status) -> ReasoningItem:
        text = "".join(self._texts)
        return ReasoningItem(id=self._id, status=status, content=[ReasoningText(text=text)])

    def _part(self, kind: Any, text: str) -> PartEvent:
        part = ReasoningText(text=text)
        return PartEvent(type=kind, item_id=self._id, output_index=self._at, part=part)
