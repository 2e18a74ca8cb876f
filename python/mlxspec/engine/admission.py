"""How full the queue is, and when to come back. For the event loop's thread."""

import time
from collections import deque
from math import ceil

from mlxspec.errors import QueueFullError

MAX_RETRY_SECONDS = 60
WINDOW_SECONDS = 60.0
WINDOW_REQUESTS = 64


class DrainRate:
    """How fast requests have been ending lately."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=WINDOW_REQUESTS)

    def ended(self, now: float) -> None:
        """One more has ended."""
        self._ends.append(now)

    def seconds_for(self, count: int, now: float) -> int:
        """Whole seconds, 1 to 60, until so many more should have ended."""
        while self._ends and self._ends[0] < now - WINDOW_SECONDS:
            self._ends.popleft()
        if not self._ends:
            return 1
        each = (now - self._ends[0]) / len(self._ends)
        return max(1, min(MAX_RETRY_SECONDS, ceil(each * count)))


class Admission:
    """Prompt tokens of the requests that wait for their first token, and a bound on them."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._queued: dict[int, int] = {}
        self._num_tokens = 0
        self._rate = DrainRate()

    def check(self, num_tokens: int) -> None:
        """QueueFullError if this prompt is too much; an empty queue takes any."""
        if self._queued and self._num_tokens + num_tokens > self._max_tokens:
            raise QueueFullError(
                f"{self._num_tokens} prompt tokens are queued, {num_tokens} more would exceed "
                f"{self._max_tokens}: try again later or raise max_queued_tokens",
                retry_after=self.retry_after(),
            )

    def entered(self, request_id: int, num_tokens: int) -> None:
        """The request is queued."""
        self._queued[request_id] = num_tokens
        self._num_tokens += num_tokens

    def left(self, request_id: int) -> None:
        """The request has its first token, or has ended. Idempotent."""
        self._num_tokens -= self._queued.pop(request_id, 0)

    def ended(self) -> None:
        """A request has ended, however."""
        self._rate.ended(time.monotonic())

    def retry_after(self) -> int:
        """Seconds until those queued now should have ended."""
        return self._rate.seconds_for(max(1, len(self._queued)), time.monotonic())
