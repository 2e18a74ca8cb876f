"""Configurations by name: TOML files of one folder, and of no other."""

import re
from pathlib import Path
from typing import Any, Final

import msgspec

from mlxspec.config import Config, Tree, convert, load_file
from mlxspec.errors import BadRequestError, ConfigExistsError, ConfigNotFoundError
from mlxspec.whole_file import write_whole

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


class ConfigStore:
    """Reads and writes `NAME.toml` in a folder. Does blocking I/O."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The configurations that are there."""
        stems = (path.stem for path in self.folder.glob("*.toml"))
        return sorted(stem for stem in stems if _NAME.fullmatch(stem))

    def save(self, name: str, config: Config, *, overwrite: bool = False) -> Path:
        """Write a configuration, whole or not at all; without the key of `MLXSPEC_API_KEY`.

        Raises BadRequestError for a name that cannot be one, ConfigExistsError.
        """
        path = self._place(name)
        if path.exists() and not overwrite:
            raise ConfigExistsError(f"there is a configuration {name!r}: send overwrite = true")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.toml.encode(as_tree(config)))
        return path

    def load(self, name: str) -> Config:
        """Read a configuration and check it.

        Raises BadRequestError, ConfigNotFoundError, or ConfigError with the key at fault.
        """
        path = self._place(name)
        if not path.is_file():
            there = ", ".join(self.names()) or "none"
            raise ConfigNotFoundError(f"there is no configuration {name!r}, but: {there}")
        return convert(load_file(path))

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise BadRequestError(
                f"{name!r:.80} cannot name a configuration: use letters, digits, '_' and '-'",
                param="name",
            )
        path = self.folder / f"{name}.toml"
        if path.is_symlink():
            raise BadRequestError(f"{name!r} is a link, which may lead elsewhere: remove it")
        return path


def as_tree(config: Config) -> Tree:
    """A configuration as a TOML file has it, models and all as tables by their names."""
    tree: Tree = _without_none(msgspec.to_builtins(config))
    tree["access"].pop("key_sha256", None)
    tree["models"] = {model.pop("id"): model for model in tree["models"]}
    return tree


def differences(before: Config, after: Config) -> list[str]:
    """The keys that differ, with dots between."""
    old, new = (dict(_flat("", as_tree(it))) for it in (before, after))
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(it) for key, it in value.items() if it is not None}
    return [_without_none(it) for it in value] if isinstance(value, list | tuple) else value


def _flat(prefix: str, tree: Tree) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += (
            _flat(f"{prefix}{key}.", value) if isinstance(value, dict) else [(prefix + key, value)]
        )
    return found
