"""Fixtures of the unit tests: an empty store, and a tiny llama as GGUF file and as a folder."""

from pathlib import Path

import pytest
from gguf_writer import tiny_file

from mlxspec.model.backend import preload_blas

preload_blas()  # before any test module imports mlx


@pytest.fixture
def store_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store and an empty, offline hub cache; returns the store's folder of models."""
    monkeypatch.setenv("MLXSPEC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "home" / "models"


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A valid tiny llama as a GGUF file."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_file().to_bytes())
    return path


@pytest.fixture
def tiny_model(tiny_gguf: Path, tmp_path: Path) -> Path:
    """The tiny llama imported into a folder outside of any store."""
    from mlxspec.model.gguf import import_gguf

    return import_gguf(tiny_gguf, tmp_path / "tiny-model", "float32")
