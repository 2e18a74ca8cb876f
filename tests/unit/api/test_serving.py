"""The server as a process: signals, ends, taken ports. No model: the engine is scripted."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fake_server import NUM_TOKENS
from wire import CHAT, chat, sse_frames

from mlxspec.config import Config, ServerConfig
from mlxspec.errors import ConfigError
from mlxspec.server import serve

Start = Callable[[float], tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server with so many seconds to drain; gives the process and its url."""
    processes: list[subprocess.Popen[str]] = []

    def start(drain_seconds: float) -> tuple[subprocess.Popen[str], str]:
        script = Path(__file__).with_name("fake_server.py")
        command = [sys.executable, str(script), "0", str(drain_seconds)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stderr is not None
        listening = re.search(r"http://[\d.:]+", process.stderr.readline())
        assert listening is not None
        _wait_until_ready(listening[0])
        return process, listening[0]

    yield start
    for process in processes:
        process.terminate()
        time.sleep(0.1)
        process.terminate()  # the second one kills the worker too
        process.communicate()


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            assert httpx.get(f"{url}/health/ready").status_code == 200
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def _wait_until_draining(url: str) -> None:
    """Within the second that the stream under way takes to end."""
    deadline = time.monotonic() + 0.8
    while httpx.get(f"{url}/health/ready").status_code != 503:
        assert time.monotonic() < deadline, "readiness does not tell of the drain"
        time.sleep(0.02)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_running_streams_finish_and_exits_zero(
    start: Start, signum: signal.Signals
) -> None:
    process, url = start(20)
    with httpx.stream("POST", url + CHAT, json=chat(stream=True)) as response:
        text = response.iter_text()
        seen = next(text)
        process.send_signal(signum)
        _wait_until_draining(url)
        assert httpx.get(f"{url}/health/live").status_code == 200
        assert httpx.post(url + CHAT, json=chat()).headers["retry-after"] == "5"
        seen += "".join(text)
    frames = sse_frames(seen)
    assert frames[-1] == "[DONE]"
    assert len(frames) == NUM_TOKENS + 3
    assert process.wait(10) == 0


def test_a_stream_longer_than_the_drain_ends_with_an_error(start: Start) -> None:
    process, url = start(0.2)
    with httpx.stream("POST", url + CHAT, json=chat(stream=True)) as response:
        text = response.iter_text()
        seen = next(text)
        process.send_signal(signal.SIGTERM)
        seen += "".join(text)
    assert sse_frames(seen)[-1]["error"]["code"] == "unavailable"
    assert process.wait(10) == 0


def test_a_second_signal_is_immediate(start: Start) -> None:
    process, url = start(20)
    with httpx.stream("POST", url + CHAT, json=chat(stream=True)) as response:
        text = response.iter_text()
        next(text)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            list(text)
    process.wait(5)


def test_a_worker_whose_parent_was_killed_drains_and_ends(start: Start) -> None:
    process, url = start(20)
    process.kill()
    process.wait(5)
    deadline = time.monotonic() + 10
    while _answers(url):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        httpx.get(f"{url}/health/live")
    except httpx.TransportError:
        return False
    return True


def test_a_taken_port_is_refused_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            serve(Config(server=ServerConfig(port=port)))
