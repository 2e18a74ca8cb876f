"""Starting the engine with the app and stopping it once, whoever asks first."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar

from mlxspec.api.ports import EngineLike


class Drain:
    """Stops the engine once: on a signal, or at the latest when the app ends.

    While it drains, the app still answers: readiness and new requests with 503, running ones
    with their tokens. For the event loop's thread.
    """

    def __init__(self, engine: EngineLike, drain_seconds: float) -> None:
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._stopping: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Stop the engine, or wait for the stop already under way."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._engine.stop(self._drain_seconds))
        await asyncio.shield(self._stopping)

    @asynccontextmanager
    async def lifespan(self, _app: Litestar) -> AsyncIterator[None]:
        """The app's life: the engine starts with it and is stopped with it."""
        await self._engine.start()
        try:
            yield
        finally:
            await self.stop()
