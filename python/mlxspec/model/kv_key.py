"""What KV depends on besides the tokens: KV of another key is never used."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Final

from mlxspec.model.folder_check import weight_files
from mlxspec.model.kv_form import LayerShape

PORTION_BYTES: Final = 16 << 20


def weights_digest(folder: Path, between: Callable[[], None]) -> str:
    """Of the model's configuration and of every byte of its weights, which are read for it.

    `between` is called between two portions, and may raise to break off.
    """
    digest = sha256()
    for file in [folder / "config.json", *sorted(weight_files(folder))]:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while portion := content.read(PORTION_BYTES):
                between()
                digest.update(portion)
    return digest.hexdigest()


def kv_key(weights: str, layers: Sequence[LayerShape]) -> str:
    """The key of a model's KV: its `weights_digest`, how it is stored, whose code computes it."""
    code = [f"{name} {version(name)}" for name in ("mlx", "mlx-lm")]
    return sha256(repr([weights, list(layers), code]).encode()).hexdigest()
