"""When a worker that keeps dying should stay dead."""

from collections import deque

MAX_DEATHS = 5
WINDOW_SECONDS = 60.0


class CrashLoop:
    """Counts deaths; `now` is a monotonic clock."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)

    def died(self, now: float) -> bool:
        """Count one more; whether that is too many in too short a time."""
        self._deaths.append(now)
        return len(self._deaths) == MAX_DEATHS and now - self._deaths[0] <= WINDOW_SECONDS
