"""What tests of the extension with MLX share."""

from pathlib import Path

import pytest
from costs import say_cheap, say_free
from grammars import END, VOCAB, byte_tokenizer
from layouts import EXACT, PADDED

from mlxspec.engine.grammar import GrammarCompiler
from mlxspec.engine.model_facts import DEVICE_SHAPES, DeviceShape
from tiny_models import save_model_with_tokenizer


@pytest.fixture
def drafts_look_free(monkeypatch: pytest.MonkeyPatch) -> None:
    say_free(monkeypatch)


@pytest.fixture
def drafts_look_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    say_cheap(monkeypatch, draft_ms=0.02)


@pytest.fixture(params=[EXACT, PADDED], ids=["exact", "padded"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DeviceShape:
    """Steps lie so."""
    shape: DeviceShape = request.param
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", shape)
    return shape


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four models of two architectures, each with a text of its own."""
    root = tmp_path_factory.mktemp("models")
    kinds = ["llama", "qwen3", "llama", "qwen3"]
    return [save_model_with_tokenizer(root / f"m{at}", kind, at) for at, kind in enumerate(kinds)]


@pytest.fixture(scope="session")
def compiler() -> GrammarCompiler:
    """Of grammars over `byte_folder`'s vocabulary."""
    return GrammarCompiler(byte_tokenizer(), VOCAB, [END])
