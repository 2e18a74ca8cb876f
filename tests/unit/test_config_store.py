"""Configurations by name, in one folder."""

from pathlib import Path

import pytest

from mlxspec.config import AccessConfig, Config, KVConfig
from mlxspec.config_store import ConfigStore, differences
from mlxspec.errors import BadRequestError
from mlxspec.model_tables import DrafterConfig, GroupConfig, ModelConfig

FULL = Config(
    models=(
        ModelConfig(id="a/b", source="x", aliases=("c", "*"), weight=2.0, draft_model="quick"),
        ModelConfig(id="d", source="y", kv_bits=4, max_running=3),
    ),
    groups={"g": GroupConfig(members=("d", "a/b"), balance="prefix", tags=("t",))},
    drafters={"quick": DrafterConfig(source="z")},
    kv=KVConfig(memory_bytes=5),
    default_model="g",
)


def test_what_is_saved_is_loaded_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path / "new")
    path = store.save("full", FULL)
    assert store.load("full") == FULL
    assert path.stat().st_mode & 0o077 == 0
    assert store.names() == ["full"]


def test_the_key_of_the_environment_is_not_written(tmp_path: Path) -> None:
    path = ConfigStore(tmp_path).save("it", Config(access=AccessConfig(key_sha256="a" * 64)))
    assert "aaaa" not in path.read_text()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.toml"
    outside.write_text("[server]\nport = 1\n")
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "it.toml").symlink_to(outside)
    store = ConfigStore(folder)
    with pytest.raises(BadRequestError, match="link"):
        store.load("it")
    with pytest.raises(BadRequestError, match="link"):
        store.save("it", FULL, overwrite=True)
    assert outside.read_text() == "[server]\nport = 1\n"


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ConfigStore(tmp_path)
    path = store.save("it", Config())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        store.save("it", FULL, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_differences_are_named_by_their_keys() -> None:
    other = Config(models=FULL.models[:1], groups={}, drafters=FULL.drafters, kv=KVConfig())
    found = differences(FULL, other)
    assert "kv.memory_bytes" in found
    assert "default_model" in found
    assert "models.d.max_running" in found
    assert not any(key.startswith("models.a/b") for key in found)
