"""How an answer is told in Anthropic's words: whole, or as events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import Struct

from mlxspec.api.answer import complete, deltas
from mlxspec.api.anthropic.blocks import Blocks, whole_blocks
from mlxspec.api.anthropic.error import FORM
from mlxspec.api.anthropic.schema import (
    Answer,
    Ending,
    Event,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
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
            content=whole_blocks(completed),
            stop_reason=end.stop_reason,
            stop_sequence=end.stop_sequence,
            usage=MessageUsage.of(generation.usage),
            metrics=generation.metrics,
        )

    async def events(
        self, generation: GenerationLike, idle_seconds: float
    ) -> AsyncGenerator[Event | None]:
        """The answer's events in order; None where the client should hear that we live."""
        yield self._start(generation)
        blocks = Blocks()
        async with aclosing(deltas(generation, idle_seconds)) as news:
            async for delta in news:
                if delta is None:
                    yield None
                    continue
                for event in blocks.news(delta):
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
        return MessageStart(empty)


def _ending(reason: FinishReason, stop: str | None) -> Ending:
    """Why the answer ended; an abort or an error never gets this far."""
    if stop is not None:
        return Ending("stop_sequence", stop)
    if reason == "tool_calls":
        return Ending("tool_use")
    return Ending("max_tokens" if reason == "length" else "end_turn")
