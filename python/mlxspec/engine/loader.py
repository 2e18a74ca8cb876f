"""The loader thread: brings models into memory, one after the other, while others run."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

import mlx.core as mx

from mlxspec.errors import LoadCancelledError

JOIN_SECONDS = 5.0
"""Patience with what cannot be broken off: reading one portion, measuring a device."""


class Load(NamedTuple):
    """One load: the model, the bytes reserved for it, and whether it was called off."""

    model: int
    num_bytes: int
    cancelled: threading.Event

    def check(self) -> None:
        """Raise LoadCancelledError if nobody waits for it any more."""
        if self.cancelled.is_set():
            raise LoadCancelledError("nobody waits for the model any more")


class Loader:
    """`begin` and `cancel` are for the engine thread; `work` is called on the loader's own.

    `work` must not raise, and must tell the scheduler how the load ended.
    """

    def __init__(self, work: Callable[[Load], None]) -> None:
        self._work = work
        self._queue: SimpleQueue[Load | None] = SimpleQueue()
        self._loads: dict[int, Load] = {}
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)

    def begin(self, model: int, num_bytes: int) -> None:
        """Queue a load; the last one of this model must have ended."""
        if self._thread.ident is None:
            self._thread.start()
        self._loads[model] = load = Load(model, num_bytes, threading.Event())
        self._queue.put(load)

    def cancel(self, model: int) -> None:
        """Break the model's load off at its next stage, or before it begins."""
        self._loads[model].cancelled.set()

    def close(self) -> None:
        """Break off what is under way and end the thread, which is waited for; blocks.

        Any thread may call but the loader's own.
        """
        for load in list(self._loads.values()):
            load.cancelled.set()
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        try:
            while (load := self._queue.get()) is not None:
                self._work(load)
        finally:
            # As for the engine thread: see `Runner.serve`.
            mx.clear_streams()
