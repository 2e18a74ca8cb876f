"""A started server that can be made to fail."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

Sized = Callable[[int, int], int]
"""Chooses between the size that every run can hold and the full one (`make chaos`, `make fuzz`)."""

PARTS = 16
"""A million inputs come in so many parts, each with its own seed, which cores can share."""


class Faulty:
    """A started server around the scripted engine of `faulty_server.py`."""

    def __init__(self, folder: Path, drain_seconds: float = 5.0) -> None:
        self._folder = folder
        self.log = folder / "log"
        script = Path(__file__).with_name("faulty_server.py")
        command = [sys.executable, str(script), str(folder), str(drain_seconds)]
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(command, stdout=sink, stderr=sink)
        self.until(lambda: "listening" in self.log.read_text())
        self.url = self.log.read_text().partition('"url": "')[2].partition('"')[0]
        self.until(lambda: self.status() == 200)

    @property
    def worker(self) -> int:
        """The process id of the worker that serves now."""
        return int((self._folder / "worker").read_text())

    def status(self, path: str = "/health/ready") -> int | None:
        """The status of an answer, or None while nobody listens."""
        try:
            return httpx.get(self.url + path, timeout=2).status_code
        except httpx.TransportError:
            return None

    def until(self, holds: Callable[[], bool], seconds: float = 20) -> float:
        """Wait until it holds; returns how long that took."""
        start = time.monotonic()
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - start < seconds, self.log.read_text()
            time.sleep(0.02)
        return time.monotonic() - start

    def ask(self, what: str, **options: object) -> httpx.Response:
        """A chat whose one message tells the engine how to fail."""
        messages = [{"role": "user", "content": what}]
        body = {"model": "demo", "messages": messages, **options}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=10)

    def end(self) -> None:
        """Kill whatever is left of it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(0.1)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.kill(self.worker, signal.SIGKILL)
                self.process.kill()
                self.process.wait()


def outcome(server: Faulty) -> tuple[str, float]:
    """How a stream ended, `whole`, `refused`, `error` or `broken`, and when."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    text = ""
    try:
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=body, timeout=30
        ) as response:
            if response.status_code != 200:
                return "refused", time.monotonic()
            for piece in response.iter_text():
                text += piece
    except httpx.TransportError:
        return "broken", time.monotonic()
    whole = text.endswith("data: [DONE]\n\n")
    return "whole" if whole else "error" if '"error"' in text else "broken", time.monotonic()
