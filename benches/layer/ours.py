"""Our API on Granian around the script: `python -m layer.ours PORT`."""

import sys

from litestar import Litestar

from layer.script import ScriptedEngine
from mlxspec.api.log import configure_logging
from mlxspec.config import Config, ServerConfig
from mlxspec.server import serve, signalled_app


def load() -> Litestar:
    """The app inside the worker."""
    configure_logging("warning")
    return signalled_app(ScriptedEngine(), Config.from_env())


if __name__ == "__main__":
    serve(Config(server=ServerConfig(port=int(sys.argv[1]), drain_seconds=0)), load)
