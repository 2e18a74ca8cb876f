"""Encoders' folders: what is read of them, and which are refused."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from mlxspec.errors import ModelImportError
from mlxspec.model.encoder import open_encoder
from mlxspec.model.encoder_folder import context_length, kind, told_pooling
from mlxspec.model.folder_check import check_folder
from tiny_encoder import SCORER, save_encoder


def test_the_kind_of_a_model_is_told_by_its_config(tmp_path: Path) -> None:
    assert kind(save_encoder(tmp_path / "encoder", seed=1)) == "encoder"
    assert kind(save_encoder(tmp_path / "scorer", seed=1, **SCORER)) == "cross-encoder"
    (tmp_path / "encoder/config.json").write_text('{"model_type": "llama"}')
    assert kind(tmp_path / "encoder") == "generative"


def test_texts_are_as_long_as_trained_for_and_no_longer_than_there_are_positions(
    tmp_path: Path,
) -> None:
    folder = save_encoder(tmp_path / "encoder", seed=1)
    for told, longest in (('{"max_seq_length": 9}', 9), ('{"max_seq_length": 99}', 60), ("{}", 60)):
        (folder / "sentence_bert_config.json").write_text(told)
        assert context_length(folder) == longest
    assert told_pooling(folder) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({**SCORER, "id2label": {"0": "a", "1": "b"}}, "2 classes"),
        ({"num_hidden_layers": 3}, "not a BERT's: Missing 16 .*encoder.layer.2"),
        ({"intermediate_size": 65}, "not a BERT's: .*shape"),
        (SCORER, "not a BERT's: .*classifier"),
    ],
)
def test_a_folder_that_is_not_what_it_says_is_refused(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    folder = save_encoder(tmp_path / "encoder", seed=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    check_folder(folder)
    with pytest.raises(ModelImportError, match=text):
        open_encoder(folder, None)


def test_old_names_of_parameters_are_known(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", seed=1)
    file = str(folder / "model.safetensors")
    weights = mx.load(file)
    new, old = ("LayerNorm.weight", "LayerNorm.bias"), ("LayerNorm.gamma", "LayerNorm.beta")
    renamed = {
        f"bert.{name}".replace(new[0], old[0]).replace(new[1], old[1]): it
        for name, it in weights.items()
    }
    mx.save_safetensors(file, renamed | {"bert.embeddings.position_ids": mx.arange(60)})
    norm = open_encoder(folder, None).embeddings.LayerNorm
    assert mx.array_equal(norm.weight, weights["embeddings.LayerNorm.weight"])


def test_padding_behind_the_last_position_is_finite(tmp_path: Path) -> None:
    embeddings = open_encoder(save_encoder(tmp_path / "encoder", seed=1), None).embeddings
    zeros = mx.zeros(1, mx.int32)
    last = embeddings(zeros, mx.array([59]), zeros)
    for beyond in (60, 63, 100_000):
        assert mx.array_equal(embeddings(zeros, mx.array([beyond]), zeros), last)
