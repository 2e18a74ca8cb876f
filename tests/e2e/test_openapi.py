"""Whatever the OpenAPI document allows and forbids, sent to a started server with a real model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fake_engine import FakeEngine
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlxspec.api.app import create_app
from mlxspec.api.openapi.document import document
from mlxspec.config import Config
from server_process import started

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FEW = 3
TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")


@pytest.fixture(scope="module")
def short_server(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server of the demo model, whose answers cannot be long."""
    with started(tmp_path_factory.mktemp("short") / "log", "demo", "--context-length", "64") as url:
        yield url


def told() -> dict[str, Any]:
    """What a server says of itself, as it goes on the wire."""
    made: dict[str, Any] = json.loads(json.dumps(document(create_app(FakeEngine(), Config()))))
    return made


schema = schemathesis.openapi.from_dict(told())
# Every bound of every field is tried on a scripted engine, which answers at once.
schema.config.phases.coverage.enabled = False


@schema.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Name the server's model, and ask for a few tokens."""
    if not isinstance(body, dict):
        return body
    bounded = (*TOKENS, "n", "best_of")
    many = [it for it in bounded if isinstance(body.get(it), int) and body[it] > FEW]
    limits = {**dict.fromkeys(TOKENS, FEW), **body, **dict.fromkeys(many, FEW)}
    options = body.get("options", {})
    if isinstance(options, dict):
        limits["options"] = options | {"num_predict": FEW}
    return limits | {"model": "demo"}


# That stream has no end to wait for; unit tests read its events.
@schema.exclude(path="/models/sse").parametrize()
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_a_real_answer_fits_the_document_and_is_no_server_error(
    case: schemathesis.Case, short_server: str
) -> None:
    case.call_and_validate(base_url=short_server, checks=CHECKS, timeout=60)


def test_the_document_is_the_servers(short_server: str) -> None:
    assert httpx.get(f"{short_server}/openapi.json").json() == told()
