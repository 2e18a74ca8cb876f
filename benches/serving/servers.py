"""The two servers of the bench: started on loopback, watched until ready, always stopped."""

import contextlib
import http.client
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from serving.failure import BenchError

START_SECONDS: Final = 180.0
STOP_SECONDS: Final = 15.0
LOG_TAIL_LINES: Final = 20
BENCHES: Final = Path(__file__).parent.parent


class Server(Struct, frozen=True):
    """One server process. `model` is what a request's body must call the model."""

    name: str
    port: int
    model: str
    process: subprocess.Popen[bytes]
    log: Path

    def log_tail(self) -> str:
        """The last lines of its output."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


@contextlib.contextmanager
def both_servers(folder: Path, *flags: str) -> Iterator[dict[str, Server]]:
    """`mlxspec serve`, with these flags, and `mlx_lm.server` of one model folder, ready.

    They are stopped at the end.
    Raises BenchError, with the log's tail, when one does not become ready.
    """
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serve-bench-")))
        ours = stack.enter_context(_mlxspec(folder, logs, flags))
        theirs = stack.enter_context(_mlx_lm(folder, logs))
        _wait_until_ready(ours, "/health/ready")
        _wait_until_ready(theirs, "/health")
        yield {ours.name: ours, theirs.name: theirs}


@contextlib.contextmanager
def our_server(folder: Path, *flags: str) -> Iterator[Server]:
    """`mlxspec serve` alone, with these flags; as `both_servers` otherwise."""
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serve-bench-")))
        server = stack.enter_context(_mlxspec(folder, logs, flags))
        _wait_until_ready(server, "/health/ready")
        yield server


def _mlxspec(
    folder: Path, logs: Path, flags: tuple[str, ...]
) -> contextlib.AbstractContextManager[Server]:
    port = _free_port()
    # Rounds ask the same again: what was answered in one must not help in the next.
    forgetful = ["--shared-suffix-memory", "0"]
    arguments = ["serve", str(folder), "--port", str(port), "--log-level", "warning"]
    return _running(
        "mlxspec", port, folder.name, [*arguments, *forgetful, *flags, "--drain-seconds", "1"], logs
    )


def _mlx_lm(folder: Path, logs: Path) -> contextlib.AbstractContextManager[Server]:
    port = _free_port()
    arguments = ["--model", str(folder), "--port", str(port), "--log-level", "WARNING"]
    return _running("mlx_lm", port, "default_model", arguments, logs)


@contextlib.contextmanager
def _running(
    name: str, port: int, model: str, arguments: list[str], logs: Path
) -> Iterator[Server]:
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.leashed", name, *arguments],
            cwd=BENCHES,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the bench, which stops the servers in order
        )
    try:
        yield Server(name, port, model, process, log)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask, ask again (mlxspec then kills its worker), and kill what still stands."""
    for end in (process.terminate, process.terminate, process.kill):
        end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            break
    assert process.stdin is not None
    process.stdin.close()


def _wait_until_ready(server: Server, path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(server.port, path):
        if server.process.poll() is not None:
            raise BenchError(f"{server.name} did not start\n{server.log_tail()}")
        if time.monotonic() > deadline:
            raise BenchError(
                f"{server.name} is not ready after {START_SECONDS:.0f} s\n{server.log_tail()}"
            )
        time.sleep(0.2)


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
