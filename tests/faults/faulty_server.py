"""A real server whose engine fails as its prompts say: `faulty_server.py FOLDER DRAIN_SECONDS`."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "unit" / "api"))

from fake_engine import FakeEngine, FakeGeneration
from litestar import Litestar

from mlxspec.api.log import configure_logging
from mlxspec.config import Config, LimitsConfig, ServerConfig, TracingConfig
from mlxspec.engine.request import GenerationRequest
from mlxspec.server import serve, signalled_app

SCRIPT = [step for _ in range(40) for step in ("word ", 0.05)]
HANG_SECONDS = 1.0
STALL_SECONDS = 1.0
LIMITS = LimitsConfig(hang_seconds=HANG_SECONDS, stall_seconds=STALL_SECONDS)
SPANS_IN_LOG = TracingConfig(exporter="console")
FOLDER, DRAIN_SECONDS = Path(sys.argv[1]), float(sys.argv[2])


class FaultyEngine(FakeEngine):
    """Says words slowly, unless a prompt asks for worse."""

    async def submit(self, request: GenerationRequest) -> FakeGeneration:
        match request.prompt[-1]["content"]:  # type: ignore[index, call-overload]
            case "hang a step":
                self.is_stuck = True
            case "end the engine":
                self.is_alive = False
            case "linger":
                self.scripts.append(SCRIPT * 10)
            case "flood":
                return await FakeEngine(["x" * 65536] * 1000).submit(request)
            case str() as jump if jump.startswith("jump "):
                move_wall_clock(float(jump.removeprefix("jump ")))
            case "hang the event loop":
                time.sleep(3600)  # noqa: ASYNC251 - that is the fault
        return await super().submit(request)


def move_wall_clock(seconds: float) -> None:
    """What the worker takes for the time of day jumps; no monotonic clock does."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 1e9)


def load() -> Litestar:
    """The app inside the worker, which leaves its process id in the folder."""
    told = FOLDER / f"worker.{os.getpid()}"
    told.write_text(str(os.getpid()))
    told.replace(FOLDER / "worker")  # at once: a reader never finds it empty
    configure_logging("info")
    if (FOLDER / "die").exists():
        time.sleep(6)  # longer than Granian waits for a second death
        os._exit(1)
    return signalled_app(FaultyEngine(SCRIPT), Config.from_env())


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    server = ServerConfig(port=0, drain_seconds=DRAIN_SECONDS)
    serve(Config(server=server, limits=LIMITS, tracing=SPANS_IN_LOG), load)
