"""A real server around the scripted engine: `python fake_server.py PORT DRAIN_SECONDS`."""

import signal
import sys

from fake_engine import FakeEngine
from litestar import Litestar

from mlxspec.api.log import configure_logging
from mlxspec.config import Config, ServerConfig
from mlxspec.server import serve, signalled_app

NUM_TOKENS = 20
TOKEN_SECONDS = 0.05


def load() -> Litestar:
    """The app inside the worker: a second of slow tokens for everyone."""
    configure_logging("info")
    script = [step for _ in range(NUM_TOKENS) for step in ("word ", TOKEN_SECONDS)]
    return signalled_app(FakeEngine(script), Config.from_env())


if __name__ == "__main__":
    # The tests themselves may run under nohup, which children inherit.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    port, drain_seconds = int(sys.argv[1]), float(sys.argv[2])
    serve(Config(server=ServerConfig(port=port, drain_seconds=drain_seconds)), load)
