"""Fixtures shared by all tests. BLAS is preloaded before anything imports mlx."""

import json
from pathlib import Path
from typing import Any

import pytest

from mlxspec.config import cache_dir
from mlxspec.model.backend import prepare
from tiny_models import letters, save_tokenizer

prepare()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="Run tests at full size.")


TINY_CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 48,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def save_tiny_model(folder: Path, config: dict[str, Any], seed: int = 8) -> Path:
    """A random two-layer llama of 48 tokens that stutters enough for drafts to be right at times.

    Its tokenizer has letters, though it was never taught any.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    mx.random.seed(seed)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    weights = {name: 1.5 * value for name, value in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder, letters(config["vocab_size"]))
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with plain attention."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), TINY_CONFIG)


@pytest.fixture(scope="session")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model over bytes and an end; its vocabulary is longer than theirs, as often."""
    return save_tiny_model(tmp_path_factory.mktemp("bytes"), TINY_CONFIG | {"vocab_size": 264})


@pytest.fixture(scope="session")
def stranger_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny model of the same vocabulary, which knows nothing of the first."""
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = TINY_CONFIG | narrow | {"num_key_value_heads": 1}
    return save_tiny_model(tmp_path_factory.mktemp("stranger"), config, seed=1)


@pytest.fixture(scope="session")
def windowed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose first layer sees the last 24 tokens only."""
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}
    return save_tiny_model(tmp_path_factory.mktemp("windowed"), TINY_CONFIG | layers)


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    """The demo model, where `mlxspec pull demo` puts it."""
    folder = cache_dir() / "models" / "demo"
    if not folder.exists():
        pytest.fail("the demo model is not there: run 'mlxspec pull demo' first")
    return folder
