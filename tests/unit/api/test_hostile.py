"""Hostile bodies on every route that takes one, whoever adds it: a refusal, never a 5xx."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar
from litestar.testing import TestClient
from wire import CHAT, assert_error, chat

from mlxspec.api.body import check_depth
from mlxspec.errors import BadRequestError

NOT_IMPLEMENTED = 501
DEEP = b"[" * 1_000_000
HOSTILE = {
    "nothing": b"",
    "a million brackets": DEEP,
    "brackets in a field": b'{"model": "demo", "messages": ' + DEEP,
    "brackets in an unknown field": b'{"x": ' + DEEP + b"]" * 1_000_000 + b"}",
    "a million objects": b'{"a":' * 1_000_000,
    "bad utf-8": b'{"model": "\xff\xfe", "messages": [{"role": "user", "content": "\xc3"}]}',
    "half a surrogate": b'{"model": "\\ud800", "prompt": "\\udfff", "input": "\\ud800"}',
    "a null byte": b'{"model": "demo\x00", "prompt": "\x00"}',
    "not a number": b'{"model": "demo", "prompt": "a", "temperature": NaN}',
    "infinity": b'{"model": "demo", "prompt": "a", "temperature": 1e400, "top_p": -Infinity}',
    "huge integers": b'{"model": "demo", "prompt": [1' + b"0" * 5000 + b"], "
    b'"seed": 9' + b"9" * 5000 + b', "max_tokens": 1' + b"0" * 5000 + b"}",
    "negative integers": b'{"model": "demo", "prompt": [-1], "max_tokens": -9223372036854775809, '
    b'"n": -1, "top_k": -99999999999}',
    "keys twice": b'{"model": 1, "model": "nobody", "messages": 1, "messages": []}',
    "a list": b"[]",
    "a string": b'"demo"',
    "a very long name": b'{"model": "' + b"x" * 100_000 + b'"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_route_stumbles_over_a_hostile_body(
    client: TestClient[Litestar], app: Litestar, body: bytes
) -> None:
    posts = [it.path for it in app.routes if "POST" in getattr(it, "methods", ())]
    assert len(posts) > 5
    for path in posts:
        status = client.post(path, content=body).status_code
        assert status < 500 or status == NOT_IMPLEMENTED, path


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_body_may_be_as_deep_as_the_limit_and_no_deeper(
    client: TestClient[Litestar], opening: str, closing: str
) -> None:
    def deep(levels: int) -> bytes:
        inner = opening * levels + "0" + closing * levels
        return json.dumps(chat()).encode()[:-1] + f', "metadata": {inner}}}'.encode()

    assert client.post(CHAT, content=deep(63)).status_code == 200
    assert "64 levels" in assert_error(client.post(CHAT, content=deep(64)), 400)


@given(
    st.recursive(st.none() | st.text(), lambda it: st.lists(it) | st.dictionaries(st.text(), it))
)
def test_depth_is_counted_whatever_strings_hold(value: Any) -> None:
    body, depth = json.dumps(value).encode(), _depth(value)
    check_depth(body, max(1, depth))
    if depth > 1:
        with pytest.raises(BadRequestError):
            check_depth(body, depth - 1)


def _depth(value: Any) -> int:
    if not isinstance(value, (list, dict)):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, children), default=0)
