"""Groups, advice and configurations over the admin API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import LOCAL, assert_error

from mlxspec.api.access.scopes import wanted_scope
from mlxspec.api.app import create_app
from mlxspec.config import Config
from mlxspec.model_tables import GroupConfig, ModelConfig

GROUPS = {
    "chat": GroupConfig(members=("demo", "other"), description="who talks", tags=("fast",)),
    "code": GroupConfig(members=("other",), default="other", max_running=2),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "mlxspec" / "configs"


@pytest.fixture
def asked(engine: FakeEngine, folder: Path) -> Iterator[TestClient[Any]]:
    """A client of a server with two groups, whose configurations lie in `folder`."""
    models = tuple(ModelConfig(id=name, source=name) for name in ("demo", "other"))
    engine.config = Config(models=models, groups=GROUPS)
    with TestClient(create_app(engine, Config()), LOCAL, raise_server_exceptions=False) as client:
        yield client


def names(client: TestClient[Any], **query: str) -> list[str]:
    return [it["id"] for it in client.get("/groups", params=query).json()["data"]]


def test_groups_are_listed_and_found_by_text_tag_and_type(asked: TestClient[Any]) -> None:
    assert names(asked) == ["chat", "code"]
    assert names(asked, q="TALK") == ["chat"]
    assert names(asked, q="other") == ["chat", "code"]
    assert names(asked, tag="fast") == ["chat"]
    assert names(asked, type="llama", q="cod") == ["code"]
    assert names(asked, type="bert") == []
    shown = asked.get("/groups/code").json()
    assert (shown["default"], shown["max_running"], shown["members"]) == ("other", 2, ["other"])
    assert_error(asked.get("/groups/none"), 404, code="model_not_found")


def test_advice_comes_with_its_figures(asked: TestClient[Any]) -> None:
    [advice] = asked.get("/optimize").json()["data"]
    assert advice == {
        "setting": "--memory",
        "model": None,
        "advice": "more",
        "figures": {"budget": 7},
    }


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/groups", "infer"),
        ("/groups/chat", "infer"),
        ("/optimize", "admin"),
        ("/config", "admin"),
        ("/config/save", "admin"),
        ("/config/load", "admin"),
    ],
)
def test_who_changes_the_server_needs_to_be_its_admin(path: str, scope: str) -> None:
    assert wanted_scope(path) == scope


def test_a_configuration_is_saved_shown_and_loaded(
    asked: TestClient[Any], engine: FakeEngine, folder: Path
) -> None:
    saved = asked.post("/config/save", json={"name": "mine"}).json()
    assert saved == {"name": "mine", "path": str(folder / "mine.toml")}
    assert_error(asked.post("/config/save", json={"name": "mine"}), 409, code="config_exists")
    text = (folder / "mine.toml").read_text()
    text = text.replace("port = 8080", "port = 9").replace('    "other",\n', "", 1)
    (folder / "mine.toml").write_text(text)
    shown = asked.get("/config").json()
    assert shown["saved"] == ["mine"]
    assert shown["config"]["models"]["demo"]["source"] == "demo"
    loaded = asked.post("/config/load", json={"name": "mine"}).json()
    assert loaded["applied"] == ["groups.chat.members"]
    assert loaded["needs_restart"] == ["server.port"]
    assert engine.config.groups["chat"].members == ("demo",)
    again = asked.post("/config/save", json={"name": "mine", "overwrite": True})
    assert again.status_code == 200


@pytest.mark.parametrize(
    "name", ["../keys", "a/b", "/etc/passwd", ".hidden", "a.toml", "", "x" * 65]
)
def test_no_name_leads_out_of_the_folder(asked: TestClient[Any], folder: Path, name: str) -> None:
    for route in ("/config/save", "/config/load"):
        assert asked.post(route, json={"name": name}).status_code == 400
    assert not list(folder.parent.rglob("*.toml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1", "did you mean 'port'"),
        ("[server", "broken"),
        ('default_model = "stranger"\n[models.stranger]\nsource = "x"', "is no model's name"),
    ],
)
def test_a_configuration_that_does_not_fit_changes_nothing(
    asked: TestClient[Any], engine: FakeEngine, folder: Path, text: str, said: str
) -> None:
    folder.mkdir(parents=True)
    (folder / "broken.toml").write_text(text)
    before = engine.config
    assert said in assert_error(asked.post("/config/load", json={"name": "broken"}), 400, "name")
    assert engine.config is before


def test_a_missing_configuration_is_named_with_those_there(
    asked: TestClient[Any], folder: Path
) -> None:
    asked.post("/config/save", json={"name": "one"})
    refused = asked.post("/config/load", json={"name": "two"})
    assert "but: one" in assert_error(refused, 404, code="config_not_found")
