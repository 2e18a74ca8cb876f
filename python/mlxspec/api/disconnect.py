"""Work that a leaving client ends: the server does not cancel a handler that is not streaming."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar.types import HTTPReceiveMessage, Receive

from mlxspec.api.errors import ClientClosedError

T = TypeVar("T")


async def unless_client_leaves(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The work's result; ClientClosedError, with the work cancelled, if the client leaves first.

    `receive` must have yielded the whole request body already.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_client_leaves(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientClosedError("the client left before its answer was ready")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _client_leaves(receive: Receive) -> None:
    message: HTTPReceiveMessage | Any = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()
