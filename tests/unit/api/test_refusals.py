"""Every way to be refused has OpenAI's shape, a status, a field and a way out."""

import json
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import CHAT, COMPLETIONS, LOCAL, assert_error, chat, completion

from mlxspec.api.app import create_app
from mlxspec.config import Config, ServerConfig
from mlxspec.errors import (
    BadRequestError,
    ContextLengthError,
    EngineError,
    MlxspecError,
    ModelNotFoundError,
    QueueFullError,
    UnavailableError,
)

UNSUPPORTED_CHAT = {
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
}

VIOLATIONS = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": 3, "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": -1}, "min_p"),
    ({"seed": 1.5}, "seed"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
    ({"logit_bias": {"foo": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"1" * 5000: 1}}, "logit_bias"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"allowed_token_ids": [2**31]}, "allowed_token_ids[0]"),
    ({"bad_words": [""]}, "bad_words[0]"),
    ({"xtc_probability": 1.1}, "xtc_probability"),
    ({"xtc_threshold": 0.6}, "xtc_threshold"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"stop": ["x"] * 9}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": "é" * 129}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_format": "xml"}, "stream_format"),
    ({"speculative": True}, "speculative"),
    ({"n": 0}, "n"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"model": ""}, "model"),
    ({"model": None}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), VIOLATIONS)
def test_violations_name_the_field(
    client: TestClient[Any], fields: dict[str, Any], param: str
) -> None:
    message = assert_error(client.post(CHAT, json=chat(**fields)), 400, param, "invalid_request")
    assert message[0].islower()


def test_missing_fields_are_named(client: TestClient[Any]) -> None:
    assert_error(client.post(CHAT, json={"messages": chat()["messages"]}), 400, "model")
    assert_error(client.post(CHAT, json={"model": "demo"}), 400, "messages")
    assert_error(client.post(COMPLETIONS, json={"model": "demo"}), 400, "prompt")


@pytest.mark.parametrize(("param", "value"), UNSUPPORTED_CHAT.items())
def test_unsupported_chat_features_are_refused_by_name(
    client: TestClient[Any], engine: FakeEngine, param: str, value: Any
) -> None:
    message = assert_error(client.post(CHAT, json=chat(**{param: value})), 400, param)
    assert "not supported" in message
    assert ":" in message
    assert engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"echo": True, "logprobs": 0, "stream": True}, "stream"),
        ({"echo": True, "prompt": [1, 2], "stream": True}, "stream"),
        ({"prompt_logprobs": 1, "stream": True}, "stream"),
    ],
)
def test_contradictions_are_named(
    client: TestClient[Any], engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    assert_error(client.post(COMPLETIONS, json=completion(**fields)), 400, param)
    assert engine.requests == []


def test_a_part_that_is_not_text_is_named(client: TestClient[Any]) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
    response = client.post(CHAT, json=chat(messages=[{"role": "user", "content": parts}]))
    assert "image_url" in assert_error(response, 400, "messages[0].content[1]")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b"nope",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "hi"}]}',
        b'{"model": "demo", "temperature": NaN}',
        b'{"model": "demo", "temperature": 1e400}',
        b"[" * 100_000,
        b'{"ignored": ' + b"[" * 100_000,
        b'{"tools": ' + b"[" * 100_000,
        b"\x00",
        b"\xef\xbb\xbf{}",
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_broken_bodies_are_the_clients_fault(
    client: TestClient[Any], path: str, body: bytes
) -> None:
    response = client.post(path, content=body)
    assert response.status_code == 400, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_large_body_is_413_with_the_limit(engine: FakeEngine) -> None:
    app = create_app(engine, Config(server=ServerConfig(max_body_bytes=1000)))
    with TestClient(app, LOCAL) as client:
        content = "x" * 1000
        body = chat(messages=[{"role": "user", "content": content}])
        assert "1000 bytes" in assert_error(client.post(CHAT, json=body), 413)
        chunked = client.post(CHAT, content=iter([json.dumps(body).encode()]))
        assert_error(chunked, 413, code="body_too_large")


def test_unknown_routes_and_methods(client: TestClient[Any]) -> None:
    assert_error(client.get("/nowhere"), 404, code="unknown_url")
    assert_error(client.post("/v1/chat"), 404, code="unknown_url")
    response = client.get(CHAT)
    assert_error(response, 405, code="method_not_allowed")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (ModelNotFoundError("no such model"), 404, "model_not_found", None),
        (ContextLengthError("too long"), 400, "context_length_exceeded", None),
        (BadRequestError("bad"), 400, "invalid_request", None),
        (QueueFullError("full", retry_after=7), 429, "queue_full", "7"),
        (QueueFullError("full"), 429, "queue_full", "1"),
        (UnavailableError("loading", retry_after=0), 503, "unavailable", "1"),
        (EngineError("broken"), 500, "engine_error", None),
    ],
)
def test_the_engines_refusals_come_before_the_first_byte(
    client: TestClient[Any],
    engine: FakeEngine,
    error: MlxspecError,
    status: int,
    code: str,
    retry_after: str | None,
    stream: bool,
) -> None:
    engine.refusal = error
    response = client.post(CHAT, json=chat(stream=stream))
    assert assert_error(response, status, code=code) == error.message
    assert response.headers.get("retry-after") == retry_after


def test_a_bug_is_500_and_shows_nothing_of_itself(
    client: TestClient[Any], engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.refusal = ZeroDivisionError("secret")
    response = client.post(CHAT, json=chat())
    assert "secret" not in assert_error(response, 500, code="internal_error")
    assert response.headers["x-request-id"] in capsys.readouterr().out


def test_an_app_without_engine_errors_never_leaks_litestars_shape(app: Litestar) -> None:
    with TestClient(app, LOCAL) as client:
        response = client.get("/health", headers={"host": "bad host"})
        assert_error(response, 400, code="invalid_request")
