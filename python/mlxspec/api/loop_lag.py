"""How late the event loop is: samples of a short sleep, for the metrics."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from litestar import Litestar

SAMPLE_SECONDS = 0.25


def loop_lag(
    observe: Callable[[float], None],
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """A part of the app's life in which the loop it runs in is sampled."""

    @asynccontextmanager
    async def sampled(_app: Litestar) -> AsyncIterator[None]:
        sampling = asyncio.create_task(_sample(observe))
        try:
            yield
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling

    return sampled


async def _sample(observe: Callable[[float], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + SAMPLE_SECONDS
        await asyncio.sleep(SAMPLE_SECONDS)
        observe(max(0.0, loop.time() - due))
