"""A server for one command: the one that listens already, or one started until the command ends."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from mlxspec.cli.client import Client
from mlxspec.errors import UnavailableError

DEFAULT_URL = "http://127.0.0.1:8080"
START_SECONDS = 600.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.1


@contextmanager
def server_for(url: str, key: str | None, model: str | None) -> Iterator[Client]:
    """A client of the server at `url`, or of one started here for `model` if none listens.

    Raises UnavailableError when the started server ends before it is ready.
    """
    client = Client(url, key)
    if client.is_ready():
        yield client
        return
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "mlxspec",
        "serve",
        "--port",
        str(port),
        "--drain-seconds",
        "1",
    ]
    with tempfile.TemporaryFile("w+") as log:
        arguments = [model] if model else []
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the command, not for its server
        )
        try:
            started = Client(f"http://127.0.0.1:{port}", key)
            if not _wait_until_ready(process, started):
                log.seek(0)
                raise UnavailableError(f"the server did not start:\n{log.read().strip()}")
            yield started
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes], client: Client) -> bool:
    deadline = time.monotonic() + START_SECONDS
    with Console(stderr=True).status("starting a server"):
        while process.poll() is None and time.monotonic() < deadline:
            if client.is_ready():
                return True
            time.sleep(POLL_SECONDS)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
