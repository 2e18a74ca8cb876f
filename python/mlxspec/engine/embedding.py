"""Texts on their way through a model, each to one vector. Event loop only."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mlxspec.engine.deadlines import Deadlines
from mlxspec.engine.generation import End, finish_reason
from mlxspec.engine.logprobs import RawLogprobs
from mlxspec.errors import BadRequestError, EngineError, MlxspecError, QueueFullError
from mlxspec.speculative.pooling import Floats, Pooled

MOST_UNDER_WAY = 32


def most_under_way(max_running: int) -> int:
    """Texts of one request that the scheduler has at once: half of the rows are for others."""
    return max(1, min(MOST_UNDER_WAY, max_running // 2))


class TextReading:
    """One text that is being read. `close` at any time frees what it holds.

    param: the request field that errors name. on_end: called once, when the scheduler tells of the
    end.
    """

    def __init__(
        self,
        pooled: Pooled,
        *,
        param: str,
        abort: Callable[[], None],
        on_end: Callable[[], None],
        deadlines: Callable[[Callable[[MlxspecError], None]], Deadlines],
    ) -> None:
        self._pooled = pooled
        self._param = param
        self._abort = abort
        self._on_end = on_end
        self._submitted = time.monotonic()
        self._end: End | None = None
        self._failure: MlxspecError | None = None
        self._over = asyncio.Event()
        self._deadlines = deadlines(self._fail)

    def deliver(self, _tokens: list[int], _probs: Sequence[RawLogprobs], end: End | None) -> None:
        """Take news from the scheduler."""
        if end is None:
            return
        self._end = end
        self._on_end()
        self._deadlines.ended()
        self._over.set()

    def close(self) -> None:
        """End the request if it still runs. Idempotent."""
        if not self._over.is_set():
            self._abort()
            self._over.set()
        self._deadlines.ended()

    def _fail(self, error: MlxspecError) -> None:
        """End the request now, whether or not the scheduler answers: it may hang."""
        self._failure = self._failure or error
        self.close()

    async def vector(self) -> Floats:
        """The text's vector once it is read; raises what a generation does, and BadRequestError for
        a model that cannot embed."""
        await self._over.wait()
        if self._failure is not None:
            raise self._failure
        age = time.monotonic() - self._submitted
        end = self._end and finish_reason(self._end, age_seconds=age, param=self._param)
        if end in {None, "abort"}:
            raise EngineError("the server is shutting down: send the request again")
        if self._pooled.refusal:
            raise BadRequestError(
                f"the model cannot embed: {self._pooled.refusal}; use an embedding model",
                param="model",
            )
        vector = self._pooled.vector
        if not np.isfinite(vector).all():
            raise EngineError("the model's numbers overflow: choose another model")
        return vector


async def read_all(
    submit: Callable[[list[int]], TextReading], texts: Iterable[list[int]], most: int
) -> list[Floats]:
    """The vectors of all texts, in order, of which `most` are under way, or as many as the queue
    takes.

    `submit` may raise QueueFullError, which counts only while none of ours could make room. If one
    fails, or the caller gives up, all others end.
    """
    under_way: deque[TextReading] = deque()
    vectors: list[Floats] = []

    async def take_first() -> None:
        vectors.append(await under_way[0].vector())
        under_way.popleft()

    try:
        for text in texts:
            while len(under_way) >= most:
                await take_first()
            while (reading := _submitted(submit, text, may_wait=bool(under_way))) is None:
                await take_first()
            under_way.append(reading)
        while under_way:
            await take_first()
    finally:
        for reading in under_way:
            reading.close()
    return vectors


def _submitted(
    submit: Callable[[list[int]], TextReading], text: list[int], *, may_wait: bool
) -> TextReading | None:
    try:
        return submit(text)
    except QueueFullError:
        if may_wait:
            return None
        raise


def unit(vector: Floats) -> Floats:
    """The vector of length 1 in its direction; zeros stay."""
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 0 else vector


def shaped(vector: Floats, dimensions: int | None, *, normalise: bool) -> Floats:
    """The vector's first `dimensions`, of length 1 if asked; BadRequestError if it has fewer."""
    if dimensions is not None:
        if dimensions > len(vector):
            raise BadRequestError(
                f"dimensions is {dimensions}, the model's vectors have {len(vector)}: ask for no "
                "more",
                param="dimensions",
            )
        vector = vector[:dimensions]
    return unit(vector) if normalise else vector
