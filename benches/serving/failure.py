"""The one error of the bench: what its user reads before exit status 1."""

import signal
import sys
from collections.abc import Callable
from types import FrameType

from mlxspec.errors import MlxspecError


class BenchError(Exception):
    """A server that did not start, broke off, or answered wrongly; the text says which."""


def run_bench(name: str, bench: Callable[[], None]) -> None:
    """Run it, so that servers are stopped however it ends, and what fails is told in one line."""
    signal.signal(signal.SIGTERM, _exit)
    try:
        bench()
    except (BenchError, MlxspecError) as error:
        sys.exit(f"{name} bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _exit(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)
