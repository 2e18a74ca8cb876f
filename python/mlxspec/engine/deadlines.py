"""How long one request may wait, may take to its first token, and may take at all.

All on the event loop's monotonic clock, which wall clocks cannot move.
"""

import asyncio
from collections.abc import Callable

from mlxspec.config import LimitsConfig
from mlxspec.errors import DeadlineError, MlxspecError


class Deadlines:
    """The timers of one request. For the event loop's thread."""

    def __init__(
        self,
        limits: LimitsConfig,
        total_seconds: float | None,
        expire: Callable[[], None],
        fail: Callable[[MlxspecError], None],
    ) -> None:
        """`expire` ends the request if it still waits, `fail` ends it in any case.

        total_seconds: the client's own wish, within the limit.
        """
        total = min(total_seconds or limits.total_seconds, limits.total_seconds or float("inf"))
        self._total = _later(total, lambda: fail(_too_late("answer", total)))
        first = limits.first_token_seconds
        self._until_first = [
            _later(limits.queue_seconds, expire),
            _later(first, lambda: fail(_too_late("first token", first))),
        ]

    def first_token(self) -> None:
        """Only the whole answer's deadline stays. Idempotent."""
        while self._until_first:
            if timer := self._until_first.pop():
                timer.cancel()

    def ended(self) -> None:
        """No deadline stays. Idempotent."""
        self.first_token()
        if self._total:
            self._total.cancel()


def _later(seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle | None:
    if not 0 < seconds < float("inf"):
        return None
    return asyncio.get_running_loop().call_later(seconds, call)


def _too_late(what: str, seconds: float) -> DeadlineError:
    return DeadlineError(
        f"the {what} took longer than {seconds:g} s: ask for fewer tokens, or try again when the "
        "server is less busy"
    )
