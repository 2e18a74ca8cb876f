"""Clients' JSON settings: files of ours are written, files of the user's only added to."""

import shutil
from pathlib import Path
from typing import Any

import msgspec

from mlxspec.cli.clients import Settings
from mlxspec.errors import ConfigError


def write_settings(settings: Settings) -> None:
    """Write the settings where the client reads them; ConfigError for a file we cannot add to."""
    content = settings.content
    if settings.shared and settings.path.exists():
        before = _read(settings.path)
        content = merged(before, content)
        if content == before:
            return
        shutil.copy2(settings.path, settings.path.with_suffix(".before-mlxspec.json"))
    settings.path.parent.mkdir(parents=True, exist_ok=True)
    settings.path.write_text(as_text(content))


def as_text(content: dict[str, Any]) -> str:
    """The settings as people read them."""
    return msgspec.json.format(msgspec.json.encode(content)).decode() + "\n"


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` laid over it, at every depth."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError:
        raise ConfigError(
            f"{path} has comments or is not JSON: add what --print shows by hand"
        ) from None
    return content
