"""A really started server, as a user would start it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

START_SECONDS = 180
MAX_RUNNING = 16
MAX_WAITING = 8


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended:\n{log.read_text()}"
        try:
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail(f"not ready after {START_SECONDS} s:\n{log.read_text()}")


@contextmanager
def started(log: Path, *arguments: str | Path) -> Iterator[str]:
    """Base URL of a server with these arguments; it must end cleanly, and promptly, on SIGTERM."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlxspec", "serve", "--port", url.rpartition(":")[2]]
    limits = ["--max-running", str(MAX_RUNNING), "--max-waiting", str(MAX_WAITING)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, *limits, *arguments],
            stdout=sink,
            stderr=sink,
            env=os.environ | {"XDG_CONFIG_HOME": str(log.parent)},  # not this machine's own keys
        )
    try:
        wait_until_ready(process, url, log)
        yield url
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
        assert "terminate called" not in log.read_text(), "threads of MLX outlive the interpreter"
    finally:
        process.kill()
        process.wait()
