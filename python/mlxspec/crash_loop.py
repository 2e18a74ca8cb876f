"""When a worker that keeps dying should stay dead.

Granian gives up on a worker that dies as soon as it is started. One that loads a model first would
be started for ever.
"""

import time
from collections import deque
from typing import Any

import structlog

MAX_DEATHS = 5
WINDOW_SECONDS = 60.0

NEEDED = ("_respawn_workers", "interrupt_children", "signal_handler_interrupt")
"""What of Granian's server is changed and used here; the first has no public counterpart."""

logger = structlog.get_logger("mlxspec.server")


class CrashLoop:
    """Counts deaths; `now` is a monotonic clock."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)

    def died(self, now: float) -> bool:
        """Count one more; whether that is too many in too short a time."""
        self._deaths.append(now)
        return len(self._deaths) == MAX_DEATHS and now - self._deaths[0] <= WINDOW_SECONDS


def stop_crash_loops(server: Any) -> None:
    """Let a Granian server end with 1 instead of starting a worker once too often.

    A Granian that has changed inside serves without this, and the log says so.
    """
    missing = [name for name in NEEDED if not hasattr(server, name)]
    if missing:
        logger.warning(
            "this granian is not known: a worker that keeps dying is started again for ever",
            missing=missing,
        )
        return
    deaths = CrashLoop()
    respawn = server._respawn_workers

    def respawn_unless_looping(workers: list[int], *rest: Any, **options: Any) -> None:
        if deaths.died(time.monotonic()):
            logger.critical("the worker died too often in a minute: it stays down, see above")
            server.interrupt_children.extend(workers)  # makes the exit code 1
            server.signal_handler_interrupt()
        else:
            respawn(workers, *rest, **options)

    server._respawn_workers = respawn_unless_looping
