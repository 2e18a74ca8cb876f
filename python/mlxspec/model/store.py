"""Where models are found: folders, names in our own store, and the Hugging Face cache.

A folder is checked before anybody loads it: it must not bring code, its weights must be
safetensors whose headers hold, and MLX-LM must know its architecture.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from mlxspec.config import cache_dir
from mlxspec.errors import ModelImportError, ModelNotFoundError
from mlxspec.model import encoder_folder, hub
from mlxspec.model.encoder_folder import EncoderPooling, ModelKind
from mlxspec.model.folder import MANIFEST_NAME, is_whole
from mlxspec.model.folder_check import check_folder, read_json

DEMO: Final = "demo"
MINILM: Final = "minilm"
PULLED: Final = frozenset({DEMO, MINILM})
"""Names of models that come from the Python package index."""
_PART: Final = r"[A-Za-z0-9_][\w.-]*"
_NAME: Final = re.compile(rf"{_PART}(/{_PART})?", re.ASCII)


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model found on this machine. `num_bytes`: of its weights."""

    name: str
    path: str
    num_bytes: int
    model_type: str
    dtype: str
    context_length: int | None
    origin: str
    kind: ModelKind = "generative"
    pooling: EncoderPooling | None = None
    """How it was trained to be pooled, if it says so."""


def resolve(source: str, *, download: bool) -> Path:
    """Find the checked model folder that `source` names: a path, a stored name, or a hub id.

    A name in the store wins over a folder of that name: write `./name` for the folder. With
    `download` a hub id that is not cached is fetched. Raises ModelNotFoundError when there is
    nothing, ModelImportError when what is there may not or cannot be loaded. Does blocking I/O.
    """
    folder = _find(source, download)
    check_folder(folder)
    return folder


def model_id(source: str) -> str:
    """The id clients use for `source` unless told otherwise: a folder's name, else `source`."""
    if is_path(source) or (not (models_dir() / source).is_dir() and Path(source).is_dir()):
        return Path(source).expanduser().resolve().name
    return source


def is_path(source: str) -> bool:
    """Whether `source` can only be a path: it begins with `/`, `.` or `~`."""
    return source.startswith(("/", ".", "~"))


def models_dir() -> Path:
    """The folder that holds the store's models."""
    return cache_dir() / "models"


def place(name: str) -> Path:
    """Where a model called `name` belongs in the store, there or not.

    Raises ModelNotFoundError for names that could lead out of the store.
    """
    if not _NAME.fullmatch(name):
        raise ModelNotFoundError(
            f"{name!r:.80} cannot name a model: use letters, digits, '_', '.', '-' and one '/'"
        )
    root = models_dir().resolve()
    target = (root / name).resolve()
    if not target.is_relative_to(root):
        raise ModelNotFoundError(f"{name!r} leads out of {root}: remove the link there")
    return target


def list_models() -> list[StoredModel]:
    """Every model that could be served without a download, by name. Reads no weights."""
    models = []
    for name, folder in (*_stored(), *hub.cached()):
        with suppress(ModelImportError):  # another program's broken download is not our news
            models.append(describe(name, folder))
    return sorted(models, key=lambda model: model.name)


def describe(name: str, folder: Path) -> StoredModel:
    """What can be said about a model folder from its config and file sizes."""
    config = read_json(folder / "config.json")
    kind = encoder_folder.kind(folder)
    context = config.get("max_position_embeddings")
    if kind != "generative":
        context = encoder_folder.context_length(folder)
    return StoredModel(
        name=name,
        path=str(folder),
        num_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        model_type=str(config.get("model_type", "unknown")),
        dtype=_dtype(config),
        context_length=context if isinstance(context, int) else None,
        kind=kind,
        pooling=encoder_folder.told_pooling(folder),
        origin="store" if folder.is_relative_to(models_dir().resolve()) else "hugging face",
    )


def remove(name: str) -> int:
    """Delete a model from the store; return the bytes freed.

    Raises ModelNotFoundError when the store has none of that name. Hub downloads are shared with
    other programs and stay: the error says how to remove them.
    """
    target = place(name)
    if not any((target / file).is_file() for file in ("config.json", MANIFEST_NAME)):
        if any(name == cached for cached, _ in hub.cached()):
            raise ModelNotFoundError(
                f"{name} lies in the hugging face cache, which other programs share: "
                f"remove it with 'mlxspec rm --hub {name}'"
            )
        raise ModelNotFoundError(f"no model {name!r} in the store: 'mlxspec list' shows them")
    freed = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    shutil.rmtree(target)
    return freed


def _find(source: str, download: bool) -> Path:
    if source.endswith(".gguf"):
        raise ModelImportError(f"a gguf file is not served as it is: mlxspec import {source}")
    if _NAME.fullmatch(source) and (stored := place(source)).is_dir():
        return _whole(source, stored)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if is_path(source):
        raise ModelNotFoundError(f"there is no model folder {source}")
    if source in PULLED:
        raise ModelNotFoundError(f"the model {source} is not here yet: mlxspec pull {source}")
    return _find_on_hub(source, download)


def _whole(name: str, stored: Path) -> Path:
    if not is_whole(stored):
        raise ModelImportError(f"{stored} is not whole: 'mlxspec rm {name}', then get it again")
    return stored


def _find_on_hub(source: str, download: bool) -> Path:
    if "/" not in source:
        raise ModelNotFoundError(
            f"no model {source!r} here: 'mlxspec list' shows what is, and a hugging face id "
            "has the form owner/name"
        )
    if (folder := hub.find(source)) is not None:
        return folder
    if not download:
        raise ModelNotFoundError(f"{source} is not on this machine: mlxspec pull {source}")
    return hub.pull(source)


def _stored() -> Iterator[tuple[str, Path]]:
    root = models_dir().resolve()
    for config in [*root.glob("[!.]*/config.json"), *root.glob("[!.]*/[!.]*/config.json")]:
        if is_whole(config.parent):
            yield config.parent.relative_to(root).as_posix(), config.parent


def _dtype(config: dict[str, object]) -> str:
    quantization = config.get("quantization")
    if isinstance(quantization, dict):
        return f"{quantization.get('bits', '?')}-bit"
    return str(config.get("dtype") or config.get("torch_dtype") or "unknown")
