"""The OpenAPI document is complete and true, and its page needs no other host."""

import re
from typing import Any

import pytest
import schemathesis
from fake_engine import FakeEngine
from hypothesis import HealthCheck, settings
from litestar import Litestar
from litestar.routes import HTTPRoute
from litestar.testing import TestClient
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlxspec.api.app import create_app
from mlxspec.config import AccessConfig, Config

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
HIDDEN = {"/openapi.json", "/docs", "/docs/{name}"}


class Unstoppable(FakeEngine):
    """The app starts and stops around every case."""

    async def stop(self, drain_seconds: float) -> None:
        """Go on."""


CONFIG = Config(access=AccessConfig(allowed_hosts=("testserver",)))
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(Unstoppable(), CONFIG))


@schema.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Name a model that is served: all others are one refusal."""
    return {**body, "model": "demo"} if isinstance(body, dict) else body


# That stream has no end to wait for; test_router.py reads its events.
@schema.exclude(path="/models/sse").parametrize()
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_sent_the_answer_fits_the_document(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)


def test_every_route_is_described(app: Litestar, client: TestClient[Any]) -> None:
    described = client.get("/openapi.json").json()["paths"]
    paths = {route.path_format for route in app.routes if isinstance(route, HTTPRoute)}
    missing = {path for path in paths - HIDDEN if path not in described}
    unimplemented = {"create", "copy", "push", "delete"}
    assert missing == {f"/api/{name}" for name in unimplemented}


def test_bodies_answers_and_streams_are_said(client: TestClient[Any]) -> None:
    document = client.get("/openapi.json").json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].rpartition("/")[2]
    fields = document["components"]["schemas"][name]
    assert fields["required"] == ["model", "messages"]
    assert fields["properties"]["temperature"]["anyOf"][0]["maximum"] == 2
    content = chat["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream", "application/x-ndjson"}
    assert content["text/event-stream"]["x-itemSchema"]["$ref"].endswith("/ChatChunk")
    refusal = document["paths"]["/v1/messages"]["post"]["responses"]["default"]
    assert "anthropic" in refusal["content"]["application/json"]["schema"]["$ref"]


def test_the_page_and_its_files_come_from_here(client: TestClient[Any]) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    linked = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page.text)
    assert len(linked) == 3
    for path in linked:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200, path
        assert answer.content
    assert not re.search(r"https?://", page.text + client.get("/docs/start.js").text)


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2froutes.py", "%2e%2e"])
def test_no_other_file_is_given_away(client: TestClient[Any], name: str) -> None:
    assert client.get(f"/docs/{name}").status_code in {200, 404}
    assert "openapi_routes" not in client.get(f"/docs/{name}").text
