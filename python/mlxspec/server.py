"""From a configuration to a listening server, and from a signal to a clean end.

Granian runs a parent that owns the signals and a worker that owns the models.

    signal -> parent -> SIGTERM -> worker: readiness 503, running requests finish (drain_seconds)
                                   worker: SIGINT to itself -> Granian closes what is left, exit
    second signal -> parent kills the worker at once
"""

import asyncio
import os
import signal
from collections.abc import Callable
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import structlog
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.common import AbstractServer
from litestar import Litestar

from mlxspec.address import check_exposure, url_of, with_port
from mlxspec.api.app import create_app
from mlxspec.api.drain import Drain
from mlxspec.api.log import configure_logging
from mlxspec.api.ports import EngineLike
from mlxspec.config import Config
from mlxspec.crash_loop import stop_crash_loops
from mlxspec.model.backend import prepare
from mlxspec.tracing import Tracing, check_installed
from mlxspec.watchdog import Watchdog

MAX_CONNECTIONS = 4096
"""Far above what the scheduler admits: a client too many gets its 429, not a dead connection."""

HTTP1 = HTTP1Settings(header_read_timeout=10_000, max_buffer_size=64 << 10)
KILL_MARGIN_SECONDS = 10
PARENT_CHECK_SECONDS = 2.0

logger = structlog.get_logger("mlxspec.server")


def load_app() -> Litestar:
    """The app of the configuration in the environment; for the worker, which imports MLX here."""
    config = Config.from_env()
    configure_logging(config.server.log_level)
    report = prepare()  # before MLX is first imported, which the engine does
    logger.info("backend", **msgspec.to_builtins(report))

    from mlxspec.engine.engine import Engine

    return signalled_app(Engine(config), config)


def signalled_app(engine: EngineLike, config: Config) -> Litestar:
    """The app, which drains on SIGTERM once it has started. For a process's main thread."""
    drain = Drain(engine, config.server.drain_seconds)
    app = create_app(engine, config, drain=drain, tracing=Tracing.of(config.tracing))
    watchdog = Watchdog(engine, config.limits.hang_seconds)
    signals = WorkerSignals(drain, watchdog)

    def listen() -> None:
        signals.take()
        watchdog.watch()
        logger.info("listening", url=url_of(config))
        warn_of_synthetic(config)

    app.on_startup.append(listen)
    return app


def warn_of_synthetic(config: Config) -> None:
    """Say it loudly where the server's answers are not its models'."""
    if config.speculation.synthetic_acceptance is not None:
        logger.warning(
            "acceptance is forced: answers mean nothing, and are marked",
            synthetic_acceptance=config.speculation.synthetic_acceptance,
        )


def serve(config: Config, load: Callable[[], Litestar] = load_app) -> None:
    """Serve until a signal comes; blocks. Returns after a clean end.

    `load` makes the app inside the worker: a module-level function, as it may be pickled.
    Raises ConfigError if nobody can listen there or tracing is not installed, SystemExit(1) if the
    worker keeps failing.
    """
    check_exposure(config)
    check_installed(config.tracing)
    config = with_port(config)
    os.environ.update(config.to_env())
    server = Granian(
        "mlxspec",
        address=config.server.host,
        port=config.server.port,
        ssl_cert=_path(config.server.tls_cert),
        ssl_key=_path(config.server.tls_key),
        interface=Interfaces.ASGI,
        workers=1,
        http=HTTPModes.http1,
        http1_settings=HTTP1,
        websockets=False,
        backlog=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=ceil(config.server.drain_seconds) + KILL_MARGIN_SECONDS,
        log_level=LogLevels.warning,
    )
    take_hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # ignored under nohup
    stop_crash_loops(server)
    server.on_startup(lambda: _take_parent_signals(server, take_hangup=take_hangup))
    server.serve(target_loader=load, wrap_loader=False)


class WorkerSignals:
    """SIGTERM in the worker: drain first, then let Granian close the connections.

    Granian stops on SIGINT and SIGTERM alike. We take SIGTERM, the one its parent sends, and end
    with the SIGINT we left to it.
    """

    def __init__(self, drain: Drain, watchdog: Watchdog) -> None:
        self._drain = drain
        self._watchdog = watchdog
        self._parent = os.getppid()
        self._closing: asyncio.Task[None] | None = None

    def take(self) -> None:
        """Replace Granian's handler; for the running event loop of the main thread."""
        # Ctrl-C signals the terminal's whole process group; only the parent shall answer it.
        os.setpgid(0, 0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._begin_to_close)
        self._watch_parent()

    def _watch_parent(self) -> None:
        """A killed parent sends no signal: without it, nobody could stop this worker."""
        if os.getppid() != self._parent:
            self._begin_to_close()
        else:
            asyncio.get_running_loop().call_later(PARENT_CHECK_SECONDS, self._watch_parent)

    def _begin_to_close(self) -> None:
        if self._closing is None:
            logger.info("draining")
            self._watchdog.stop()
            self._closing = asyncio.create_task(self._close())

    async def _close(self) -> None:
        try:
            await self._drain.stop()
        finally:
            logger.info("drained")
            os.kill(os.getpid(), signal.SIGINT)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _take_parent_signals(server: AbstractServer[Any], *, take_hangup: bool) -> None:
    """Stop on a first signal, kill on a second; a lost terminal is a signal like the others.

    Granian would answer SIGHUP with a second worker beside the first: two copies of each model.
    """

    granian_stop = signal.getsignal(signal.SIGINT)
    assert callable(granian_stop)

    def stop(signum: int, frame: FrameType | None) -> None:
        if server.interrupt_signal:
            for worker in server.wrks:
                worker.kill()
        granian_stop(signum, frame)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop if take_hangup else signal.SIG_IGN)
