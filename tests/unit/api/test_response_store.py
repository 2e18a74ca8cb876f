"""The store of responses is bounded in number, bytes and age, and keeps keys apart."""

import pytest

from mlxspec.api.openai.responses.store import ResponseNotFoundError, ResponseStore
from mlxspec.config import ResponsesConfig


class Clock:
    """Time that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(store: ResponseStore, *ids: str, owner: str = "a") -> list[str]:
    found = []
    for one in ids:
        try:
            store.get(owner, one)
        except ResponseNotFoundError:
            continue
        found.append(one)
    return found


def test_old_responses_are_gone() -> None:
    clock = Clock()
    store = ResponseStore(ResponsesConfig(ttl_seconds=10), clock)
    store.put("a", "1", b"x", [])
    clock.now = 6
    store.put("a", "2", b"x", [])
    clock.now = 10
    assert kept(store, "1", "2") == ["2"]
    clock.now = 16
    assert kept(store, "1", "2") == []


def test_bytes_are_bounded_and_given_back() -> None:
    store = ResponseStore(ResponsesConfig(max_bytes=100))
    for one in "123":
        store.put("a", one, b"x" * 40, [])
    assert kept(store, "1", "2", "3") == ["2", "3"]
    store.delete("a", "2")
    store.put("a", "4", b"x" * 40, [])
    assert kept(store, "3", "4") == ["3", "4"]


def test_what_is_larger_than_the_store_displaces_nothing() -> None:
    store = ResponseStore(ResponsesConfig(max_bytes=100))
    store.put("a", "1", b"x", [])
    store.put("a", "2", b"x" * 200, [])
    assert kept(store, "1", "2") == ["1"]


def test_a_key_sees_and_displaces_its_own_responses_only() -> None:
    store = ResponseStore(ResponsesConfig(max_stored=1))
    store.put("a", "1", b"x", [])
    store.put("b", "2", b"x", [])
    assert kept(store, "1", "2", owner="a") == ["1"]
    assert kept(store, "1", "2", owner="b") == ["2"]
    with pytest.raises(ResponseNotFoundError):
        store.delete("b", "1")
    assert kept(store, "1", owner="a") == ["1"]


def test_the_conversation_comes_back_whole() -> None:
    store = ResponseStore(ResponsesConfig())
    messages = [{"role": "user", "content": "é"}]
    store.put("a", "1", b"body", messages)
    assert store.get("a", "1").messages() == messages
    assert store.get("a", "1").body == b"body"
