"""Any body at all: an answer or a refusal in OpenAI's shape, never a 5xx."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from fake_engine import FakeEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar.testing import TestClient
from wire import CHAT, COMPLETIONS, chat, completion

from mlxspec.api.openai.params import ChatParams, CompletionParams

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=8,
)
ENDPOINTS = [(CHAT, chat(), ChatParams), (COMPLETIONS, completion(), CompletionParams)]

fuzz = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def check(response: Any) -> None:
    """200, or a client's error with all four keys."""
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@fuzz
@given(body=st.binary(max_size=200))
def test_any_bytes(client: TestClient[Any], body: bytes) -> None:
    for path, _, _ in ENDPOINTS:
        check(client.post(path, content=body))


@pytest.mark.parametrize(("path", "valid", "schema"), ENDPOINTS)
@fuzz
@given(data=st.data())
def test_any_value_in_any_known_field(
    client: TestClient[Any],
    engine: FakeEngine,
    path: str,
    valid: dict[str, Any],
    schema: Any,
    data: st.DataObject,
) -> None:
    fields = st.dictionaries(st.sampled_from(schema.__struct_fields__), JSON, max_size=3)
    body = {**valid, **data.draw(fields)}
    body["model"] = "demo"
    check(client.post(path, content=json.dumps(body).encode()))
    engine.requests.clear()
    engine.generations.clear()


@fuzz
@given(
    path=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "BREW"]),
)
def test_any_path_and_method(client: TestClient[Any], path: str, method: str) -> None:
    for prefix in ("", "v1/models/"):
        check(client.request(method, f"/{prefix}{quote(path, safe='/')}"))
