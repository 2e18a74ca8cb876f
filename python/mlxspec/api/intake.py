"""Bytes of request bodies that the server holds at once: bounded, however many clients send."""

from collections.abc import Iterator
from contextlib import contextmanager

from litestar.types import HTTPReceiveMessage, Receive, WebSocketReceiveMessage

from mlxspec.errors import QueueFullError


class Intake:
    """Counts what all exchanges have received; an exchange holds its body until it ends.

    For the event loop's thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.num_bytes = 0

    @contextmanager
    def watch(self, receive: Receive) -> Iterator[Receive]:
        """A `receive` that counts, and refuses with QueueFullError what is too much."""
        held = 0

        async def counted() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            nonlocal held
            message = await receive()
            if message["type"] == "http.request":
                size = len(message["body"])
                if size and self.num_bytes > held and self.num_bytes + size > self._max_bytes:
                    raise self._full()
                held += size
                self.num_bytes += size
            return message

        try:
            yield counted
        finally:
            self.num_bytes -= held

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"the server holds {self.num_bytes} bytes of requests, its limit is "
            f"{self._max_bytes}: try again later or raise max_held_bytes",
            retry_after=1,
        )
