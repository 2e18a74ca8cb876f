"""A server of canned answers: for verbs that are clients."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHUNKS: list[dict[str, Any]] = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"index": 0, "delta": {"content": "Hel"}}]},
    {"choices": [{"index": 0, "delta": {"content": "lo"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]


class StubServer(ThreadingHTTPServer):
    """Ready, with its `models`; chats are answered with `chunks`, and remembered."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = [{"id": "demo", "context_length": 4096}]
        self.chunks = CHUNKS
        self.refusal: dict[str, Any] | None = None
        self.chats: list[dict[str, Any]] = []
        self.keys: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: StubServer

    def do_GET(self) -> None:
        if self.path == "/health/ready":
            self._answer(200, [{"status": "ready"}])
        else:
            self._answer(200, [{"data": self.server.models}])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.chats.append(json.loads(body))
        self.server.keys.append(self.headers["authorization"])
        if self.server.refusal:
            self._answer(400, [self.server.refusal])
        else:
            self._answer(200, self.server.chunks)

    def _answer(self, status: int, objects: list[dict[str, Any]]) -> None:
        self.send_response(status)
        self.end_headers()
        for value in objects:
            self.wfile.write(json.dumps(value).encode() + b"\n")

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def stub_server() -> Iterator[StubServer]:
    """One that serves until the block ends."""
    with StubServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
