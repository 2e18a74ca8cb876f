"""Responses that clients may come back to: bounded in number, bytes and age, for each key apart."""

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec import Struct

from mlxspec.config import ResponsesConfig
from mlxspec.engine.request import Message
from mlxspec.errors import MlxspecError


class ResponseNotFoundError(MlxspecError):
    """No such response is stored for this key."""

    status = 404
    type = "invalid_request_error"
    code = "response_not_found"


class Stored(Struct, frozen=True):
    """A response's body, and the conversation that it ends, both as JSON."""

    body: bytes
    conversation: bytes
    until: float

    @property
    def num_bytes(self) -> int:
        """What counts against the limit."""
        return len(self.body) + len(self.conversation)

    def messages(self) -> list[Message]:
        """The conversation, the response's own words included."""
        return msgspec.json.decode(self.conversation, type=list[Message])


class ResponseStore:
    """All keys' responses. For the event loop's thread."""

    def __init__(
        self, limits: ResponsesConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}

    def put(self, owner: str, response_id: str, body: bytes, conversation: list[Message]) -> None:
        """Keep a response; older ones of its owner make room. One that is too large is not kept."""
        until = self._clock() + self._limits.ttl_seconds
        stored = Stored(body, msgspec.json.encode(conversation), until)
        shelf = self._shelves.setdefault(owner, _Shelf())
        if stored.num_bytes <= self._limits.max_bytes:
            shelf.put(response_id, stored)
        shelf.shrink(self._limits, self._clock())

    def get(self, owner: str, response_id: str) -> Stored:
        """The response; ResponseNotFoundError if it is gone, or somebody else's."""
        shelf = self._shelves.get(owner)
        if shelf is not None:
            shelf.shrink(self._limits, self._clock())
        if shelf is None or response_id not in shelf.entries:
            raise ResponseNotFoundError(
                f"response {response_id} is not stored here (any more): send the whole input"
            )
        return shelf.entries[response_id]

    def delete(self, owner: str, response_id: str) -> None:
        """Forget the response; ResponseNotFoundError if it is gone already."""
        self.get(owner, response_id)
        self._shelves[owner].drop(response_id)


class _Shelf:
    """One owner's responses, oldest first."""

    def __init__(self) -> None:
        self.entries: OrderedDict[str, Stored] = OrderedDict()
        self._num_bytes = 0

    def put(self, response_id: str, stored: Stored) -> None:
        self.entries[response_id] = stored
        self._num_bytes += stored.num_bytes

    def drop(self, response_id: str) -> None:
        self._num_bytes -= self.entries.pop(response_id).num_bytes

    def shrink(self, limits: ResponsesConfig, now: float) -> None:
        """Drop what is too old, and the oldest until the rest is within the limits."""
        while self.entries and self._exceeds(limits, now):
            self.drop(next(iter(self.entries)))

    def _exceeds(self, limits: ResponsesConfig, now: float) -> bool:
        oldest = next(iter(self.entries.values()))
        too_many = len(self.entries) > limits.max_stored
        return too_many or self._num_bytes > limits.max_bytes or oldest.until <= now
