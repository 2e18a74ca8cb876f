"""The two ends of one exchange's connection: what goes out is counted, and must be taken."""

import asyncio
from collections.abc import Callable
from typing import Any

from litestar.types import Message, Receive, Send

STALLED = "slow_consumer"


class Wire:
    """Watches an answer go out: its status, its size; adds the id header.

    A client that takes nothing for `stall_seconds` counts as gone: nothing more is sent, `on_stall`
    is called, and the app hears of a disconnect. For one exchange's task.
    """

    def __init__(
        self,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        stall_seconds: float,
        on_stall: Callable[[], None],
    ) -> None:
        self.status: int | None = None
        self.num_bytes = 0
        self._receive = receive
        self._send = send
        self._header = (b"x-request-id", request_id.encode())
        self._stall_seconds = stall_seconds
        self._on_stall = on_stall
        self._body_ended = False
        self._stalled = asyncio.Event()

    async def send(self, message: Message) -> None:
        """Send one message, or drop it if the client has stalled."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], self._header]
        elif message["type"] == "http.response.body":
            self.num_bytes += len(message["body"])
        if self._stalled.is_set():
            return
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._send(message)
        except TimeoutError:
            self._stalled.set()
            self._on_stall()

    async def receive(self) -> Any:
        """The client's next message; after its body that is its leaving, or its stall."""
        if not self._body_ended:
            message = await self._receive()
            self._body_ended = not message.get("more_body", False)
            return message
        return await self._until_gone()

    async def _until_gone(self) -> Any:
        leaving = asyncio.ensure_future(self._receive())
        stalling = asyncio.ensure_future(self._stalled.wait())
        try:
            await asyncio.wait({leaving, stalling}, return_when=asyncio.FIRST_COMPLETED)
            return leaving.result() if leaving.done() else {"type": "http.disconnect"}
        finally:
            leaving.cancel()
            stalling.cancel()
