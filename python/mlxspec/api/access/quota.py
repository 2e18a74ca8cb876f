"""How much one key may use: so many requests at once, so many a minute."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

from mlxspec.api.access.key import ApiKey
from mlxspec.errors import RateLimitError

MINUTE = 60.0


class TokenBucket:
    """Holds up to a minute's worth of permits and is refilled steadily."""

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._permits = float(per_minute)
        self._filled = now

    def take(self, now: float) -> float:
        """Take a permit and return 0, or take none and return the seconds until there is one."""
        rate = self._per_minute / MINUTE
        self._permits = min(self._per_minute, self._permits + (now - self._filled) * rate)
        self._filled = now
        if self._permits >= 1:
            self._permits -= 1
            return 0.0
        return (1 - self._permits) / rate


class Quotas:
    """What every key is using now. For the event loop's thread; `now` is a monotonic clock."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._buckets: dict[tuple[str, int], TokenBucket] = {}

    @contextmanager
    def lease(self, key: ApiKey, now: float | None = None) -> Iterator[None]:
        """Let one request of the key run inside; RateLimitError says when to come back."""
        running = self._running.get(key.id, 0)
        if key.max_concurrent is not None and running >= key.max_concurrent:
            raise RateLimitError(
                f"this key has {running} requests running, its limit: wait for one to end",
                retry_after=1,
            )
        self._take_permit(key, time.monotonic() if now is None else now)
        self._running[key.id] = running + 1
        try:
            yield
        finally:
            self._running[key.id] -= 1
            if not self._running[key.id]:
                del self._running[key.id]

    def _take_permit(self, key: ApiKey, now: float) -> None:
        if key.requests_per_minute is None:
            return
        name = (key.id, key.requests_per_minute)  # a changed limit begins with a full bucket
        bucket = self._buckets.setdefault(name, TokenBucket(key.requests_per_minute, now))
        if seconds := bucket.take(now):
            raise RateLimitError(
                f"this key may make {key.requests_per_minute} requests a minute: "
                f"try again in {ceil(seconds)} s",
                retry_after=ceil(seconds),
            )
