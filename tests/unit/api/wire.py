"""Reading answers off the wire, and talking ASGI by hand where a client library would hide it."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fake_engine import CACHED_TOKENS, PROMPT_TOKENS
from litestar import Litestar

LOCAL = "http://127.0.0.1"
"""A host that the server answers as."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def chat(**fields: Any) -> dict[str, Any]:
    """A minimal chat body, and whatever a test adds."""
    return {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **fields}


def completion(**fields: Any) -> dict[str, Any]:
    """A minimal completion body, and whatever a test adds."""
    return {"model": "demo", "prompt": "once", **fields}


def usage(
    prompt: int, completion: int, reasoning: int = 0, *, accepted: int = 0, rejected: int = 0
) -> dict[str, Any]:
    """OpenAI's token counts of the fake engine's prompts, `accepted` ones of a prediction."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": prompt // PROMPT_TOKENS * CACHED_TOKENS},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": rejected,
        },
    }


def sse_frames(text: str) -> list[Any]:
    """Every frame in order: decoded objects, the string `[DONE]`, comments as they are."""
    assert text.endswith("\n\n")
    return [_sse_frame(frame) for frame in text.removesuffix("\n\n").split("\n\n")]


def _sse_frame(frame: str) -> Any:
    if frame.startswith(":"):
        return frame
    assert frame.startswith("data: ")
    data = frame.removeprefix("data: ")
    return data if data == "[DONE]" else json.loads(data)


def ndjson_lines(text: str) -> list[Any]:
    """Every line, decoded."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def assert_error(response: Any, status: int, param: str | None = None, code: Any = ...) -> str:
    """Check an answer against OpenAI's error shape; returns its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    if code is not ...:
        assert error["code"] == code
    assert error["message"]
    return str(error["message"])


class Peer:
    """A client that speaks ASGI by hand: it can leave when a test says so. No body: a GET."""

    def __init__(self, app: Litestar, path: str, body: dict[str, Any] | None) -> None:
        self._app = app
        self._body = b"" if body is None else json.dumps(body).encode()
        self._body_sent = False
        self._left = asyncio.Event()
        self.headers = [(b"host", b"127.0.0.1")]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET" if body is None else "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self.headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
            "state": {},
        }
        self.events: list[dict[str, Any]] = []
        self.on_send: Callable[[dict[str, Any]], None] = lambda event: None

    async def run(self) -> None:
        """Make the request and wait for the app to finish with it."""
        async with asyncio.timeout(5):
            await self._app(self._scope, self._receive, self._send)  # type: ignore[arg-type]

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    @property
    def status(self) -> int | None:
        return next((event["status"] for event in self.events if "status" in event), None)

    @property
    def body(self) -> str:
        return b"".join(event.get("body", b"") for event in self.events).decode()

    async def _receive(self) -> dict[str, Any]:
        if not self._body_sent:
            self._body_sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: Any) -> None:
        await asyncio.sleep(0)
        self.events.append(event)
        if event["type"] == "http.response.body" and not event.get("more_body", False):
            self._left.set()
        self.on_send(event)
