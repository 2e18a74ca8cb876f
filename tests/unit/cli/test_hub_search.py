"""`mlxspec search --hub`, against a hub of our own on this machine."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants

from mlxspec.cli import cli
from mlxspec.model import hub


class FakeHub(BaseHTTPRequestHandler):
    """Answers every search with two models, and remembers what it was asked."""

    asked: ClassVar[list[dict[str, list[str]]]] = []

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if path != "/api/models":
            self.send_error(404)
            return
        self.asked.append(parse_qs(query))
        found = [
            {"id": "org/quick-4bit", "downloads": 12345, "likes": 6, "gated": "auto"},
            {"id": "org/large-8bit", "downloads": 7, "likes": 0, "gated": False},
        ]
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the hub's client writes down besides goes nowhere else."""
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "harnesses.json"))


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    FakeHub.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield FakeHub
        server.shutdown()


def search(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["search", "--hub", *arguments])


def test_models_for_mlx_are_asked_for_and_shown(
    fake_hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"org/large-8bit": Path("/cache")}
    monkeypatch.setattr(hub, "find", here.get)
    result = search("quick", "--limit", "2")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines() if "org/" in line]
    assert lines == [
        ["org/quick-4bit", "12,345", "6", "gated"],
        ["org/large-8bit", "7", "0", "here"],
    ]
    [asked] = fake_hub.asked
    assert (asked["search"], asked["filter"], asked["sort"]) == (["quick"], ["mlx"], ["downloads"])


def test_a_hub_out_of_reach_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    began = time.monotonic()
    result = search("quick")
    assert time.monotonic() - began < 15, "it goes on trying"
    assert result.exit_code == 1
    assert "the hub cannot be asked" in result.stderr
    assert "Traceback" not in result.stderr
