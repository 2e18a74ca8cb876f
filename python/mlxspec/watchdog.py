"""Ends a worker that can serve no more, so that its parent starts a fresh one.

every second:  engine thread ended, or device lost  -> let the errors go out, exit
               a step hangs for `hang_seconds`      -> exit
               all well                             -> wind the dead man's switch
the event loop itself hangs: nobody winds the switch, which needs neither it nor the GIL -> exit
"""

import asyncio
import faulthandler
import os

import structlog

from mlxspec.api.ports import EngineLike

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""
GRACE_SECONDS = 1.0
"""For the clients of a dead engine to hear of it."""
MAX_TICK_SECONDS = 1.0

logger = structlog.get_logger("mlxspec.server")


class Watchdog:
    """For the worker's event loop; `watch` it once, until `stop`."""

    def __init__(self, engine: EngineLike, hang_seconds: float) -> None:
        """hang_seconds 0 watches for ends only, not for hangs."""
        self._engine = engine
        self._hang_seconds = hang_seconds
        self._tick = min(MAX_TICK_SECONDS, hang_seconds / 4 or MAX_TICK_SECONDS)
        self._watching: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin; the engine must have been started."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def stop(self) -> None:
        """From now on an engine that ends is wanted to. Idempotent."""
        if self._watching:
            self._watching.cancel()
        faulthandler.cancel_dump_traceback_later()

    async def _watch(self) -> None:
        while True:
            self._wind()
            await asyncio.sleep(self._tick)
            if not self._engine.alive():
                await asyncio.sleep(GRACE_SECONDS)
                _exit("the engine has ended")
            if self._engine.stuck():
                _exit(f"a step has hung for {self._hang_seconds:g} s")

    def _wind(self) -> None:
        """Put off the end of this process, which a hanging event loop could not."""
        if self._hang_seconds:
            faulthandler.dump_traceback_later(self._hang_seconds + 2 * self._tick, exit=True)


def _exit(reason: str) -> None:
    logger.critical("the worker gives up, its parent starts another", reason=reason)
    os._exit(EXIT_CODE)
