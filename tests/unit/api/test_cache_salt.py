"""Whose answers help whose requests: holders of different keys share nothing."""

from pathlib import Path
from typing import Any

from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, COMPLETIONS, LOCAL, assert_error, chat, completion

from mlxspec.api.access.key import ApiKey
from mlxspec.api.access.key_file import KeyFile
from mlxspec.api.app import create_app
from mlxspec.config import AccessConfig, Config


def test_without_keys_the_salt_is_the_clients_own(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    for body in (chat(), chat(cache_salt=None), chat(cache_salt="team a")):
        assert client.post(CHAT, json=body).status_code == 200
    assert client.post(COMPLETIONS, json=completion(cache_salt="b")).status_code == 200
    assert [request.cache_salt for request in engine.requests] == ["", "", "team a", "b"]


def test_each_key_has_salts_of_its_own(engine: FakeEngine, tmp_path: Path) -> None:
    made = [ApiKey.create("test", ("infer",)) for _ in range(2)]
    file = KeyFile(tmp_path / "keys.json")
    file.write(tuple(key for key, _ in made))
    app = create_app(engine, Config(access=AccessConfig(key_file=str(file.path))))
    with TestClient(app, LOCAL) as client:
        for _, text in made:
            for salt in ("", "x"):
                headers = {"authorization": f"Bearer {text}"}
                body = chat(cache_salt=salt)
                assert client.post(CHAT, json=body, headers=headers).status_code == 200
    assert len({request.cache_salt for request in engine.requests}) == 4


def test_a_salt_is_not_a_place_to_store_a_book(client: TestClient[Any]) -> None:
    assert_error(client.post(CHAT, json=chat(cache_salt="x" * 257)), 400, "cache_salt")
