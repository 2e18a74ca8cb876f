"""Bytes of a streamed answer: the two framings, and deltas of several generations in one line."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec
from litestar.response import Stream

import mlxspec.api.openai.error as openai
from mlxspec.api.error_form import ErrorForm
from mlxspec.api.ports import GenerationLike
from mlxspec.engine.request import Delta
from mlxspec.errors import EngineError, MlxspecError, UnavailableError

encode = msgspec.json.Encoder().encode
"""The one encoder of all answers."""


class Framing(NamedTuple):
    """How one object becomes bytes on the wire."""

    media_type: str
    prefix: bytes
    suffix: bytes
    end: bytes
    """Sent after the last object of a stream that went well."""
    keepalive: bytes
    """Sent while no token comes; empty where the format has no comments."""
    errors: ErrorForm = openai.FORM
    named: bool = False
    """Each object's `type` is also the name of its event."""

    def frame(self, value: Any) -> bytes:
        """One object, framed."""
        name = b"event: %s\n" % value.type.encode() if self.named else b""
        return name + self.prefix + encode(value) + self.suffix

    def error(self, error: MlxspecError) -> bytes:
        """The last frame of a stream that broke."""
        return self.frame(self.errors.body(error))


SSE = Framing("text/event-stream", b"data: ", b"\n\n", b"data: [DONE]\n\n", b": keepalive\n\n")
NDJSON = Framing("application/x-ndjson", b"", b"\n", b"", b"")

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Proxies must pass frames on as they come."""


def choose_framing(accept: str, wish: str | None) -> Framing:
    """NDJSON if the request's `stream_format` or, lacking that, its Accept header asks for it."""
    if wish is not None:
        return NDJSON if wish == "ndjson" else SSE
    return NDJSON if NDJSON.media_type in accept.lower() else SSE


def stream_response(frames: AsyncIterator[bytes], framing: Framing) -> Stream:
    """The HTTP answer that sends the frames; Litestar cancels it when the client leaves."""
    return Stream(
        frames, status_code=200, media_type=framing.media_type, headers=dict(STREAM_HEADERS)
    )


async def merge(
    generations: Sequence[GenerationLike], idle_seconds: float
) -> AsyncGenerator[tuple[int, Delta] | None]:
    """Yield (generation's index, delta) as they come, and None after each idle interval.

    A pending read is never cancelled by the idle timer: only the end of the iteration does that.
    Raises what a generation raises, and `check_end`'s errors.
    """
    iterators = [aiter(generation) for generation in generations]
    pending = {_read(iterator): index for index, iterator in enumerate(iterators)}
    try:
        while pending:
            done, _ = await asyncio.wait(
                pending, timeout=idle_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                yield None
            for task in sorted(done, key=pending.__getitem__):
                index = pending.pop(task)
                delta = task.result()
                if check_end(delta).finish_reason is None:
                    pending[_read(iterators[index])] = index
                yield index, delta
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _read(iterator: AsyncIterator[Delta]) -> asyncio.Task[Delta]:
    async def read() -> Delta:
        try:
            return await anext(iterator)
        except StopAsyncIteration:
            raise lost_request() from None

    return asyncio.create_task(read())


def lost_request() -> EngineError:
    """The error of a request that the engine did not bring to its end."""
    return EngineError("the request failed in the engine: send it again")


def check_end(delta: Delta) -> Delta:
    """Pass a delta on unless the engine gave the request up; then raise the error to answer with.

    `abort` here is the server's: a client that aborts no longer listens.
    """
    if delta.finish_reason == "error":
        raise lost_request()
    if delta.finish_reason == "abort":
        raise UnavailableError("the server ended the request: send it again", retry_after=1)
    return delta
