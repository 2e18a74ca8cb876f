"""How an answer is told in Anthropic's words: whole, or as events."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from msgspec import Struct

from mlxspec.api.answer import complete, deltas
from mlxspec.api.anthropic.error import FORM
from mlxspec.api.anthropic.schema import (
    Answer,
    BlockDelta,
    BlockStart,
    BlockStop,
    Ending,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    TextBlock,
    TextDelta,
)
from mlxspec.api.ports import GenerationLike
from mlxspec.api.stream import Framing, encode
from mlxspec.engine.request import FinishReason

PING = b"event: ping\ndata: " + encode(Ping()) + b"\n\n"
FRAMING = Framing("text/event-stream", b"data: ", b"\n\n", b"", PING, FORM, named=True)


class MessageWording(Struct, frozen=True):
    """Words one answer."""

    id: str
    model: str

    async def whole(self, generation: GenerationLike) -> Answer:
        """The answer that is not streamed; raises what a generation raises."""
        completed = await complete(generation)
        end = _ending(completed.finish_reason, completed.stop)
        return Answer(
            id=self.id,
            model=self.model,
            content=[TextBlock(text=completed.text)] if completed.text else [],
            stop_reason=end.stop_reason,
            stop_sequence=end.stop_sequence,
            usage=MessageUsage.of(generation.usage),
            metrics=generation.metrics,
        )

    async def events(
        self, generation: GenerationLike, idle_seconds: float
    ) -> AsyncGenerator[Struct | None]:
        """The answer's events in order; None where the client should hear that we live."""
        yield self._start(generation)
        blocks = Blocks()
        async with aclosing(deltas(generation, idle_seconds)) as news:
            async for delta in news:
                if delta is None:
                    yield None
                    continue
                for event in blocks.text(delta.text):
                    yield event
                if delta.finish_reason:
                    for event in blocks.close():
                        yield event
                    yield MessageDelta(
                        delta=_ending(delta.finish_reason, delta.stop),
                        usage=MessageUsage.of(generation.usage),
                        metrics=generation.metrics,
                    )
        yield MessageStop()

    def _start(self, generation: GenerationLike) -> MessageStart:
        empty = Answer(
            id=self.id,
            model=self.model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=MessageUsage.of(generation.usage),
        )
        return MessageStart(message=empty)


class Blocks:
    """The content blocks of a stream: one is open at a time."""

    def __init__(self) -> None:
        self._index = 0
        self._open = False

    def text(self, text: str) -> Iterator[Struct]:
        """Events of new text; a ping follows the start of the first block, as Anthropic's does."""
        if not text:
            return
        if not self._open:
            self._open = True
            yield BlockStart(index=self._index, content_block=TextBlock(text=""))
            if self._index == 0:
                yield Ping()
        yield BlockDelta(index=self._index, delta=TextDelta(text=text))

    def close(self) -> Iterator[Struct]:
        """The end of the open block, if one is."""
        if self._open:
            self._open = False
            yield BlockStop(index=self._index)
            self._index += 1


def _ending(reason: FinishReason, stop: str | None) -> Ending:
    """Why the answer ended; an abort or an error never gets this far."""
    if stop is not None:
        return Ending(stop_reason="stop_sequence", stop_sequence=stop)
    return Ending(stop_reason="max_tokens" if reason == "length" else "end_turn")
