"""What a folder says of an encoder: a model that reads texts and writes none, such as BERT.

Looks at files alone: this runs in processes that must not import mlx.
"""

from pathlib import Path
from typing import Literal, get_args

import msgspec
from msgspec import Struct

from mlxspec.errors import ModelImportError
from mlxspec.model.folder_check import ENCODERS, read_json

ModelKind = Literal["generative", "encoder", "cross-encoder"]
EncoderPooling = Literal["mean", "cls", "last"]


class EncoderConfig(Struct, frozen=True, kw_only=True):
    """The fields of BERT's config.json that decide; others are not read."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: Literal["gelu", "gelu_new", "relu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    architectures: tuple[str, ...] = ()
    sep_token_id: int = 102
    id2label: dict[str, str] = {}

    @property
    def scores(self) -> bool:
        """Whether it is a cross-encoder: it has a head that gives a pair of texts one figure."""
        return any(name.endswith("ForSequenceClassification") for name in self.architectures)


def is_encoder(folder: Path) -> bool:
    """Whether the folder's config.json names an encoder; False where there is none to read."""
    try:
        return read_json(folder / "config.json").get("model_type") in ENCODERS
    except ModelImportError:
        return False


def kind(folder: Path) -> ModelKind:
    """What a model is made for; raises as `encoder_config` does."""
    if not is_encoder(folder):
        return "generative"
    return "cross-encoder" if encoder_config(folder).scores else "encoder"


def encoder_config(folder: Path) -> EncoderConfig:
    """Read an encoder's config.json; ModelImportError names the field that is not as it must be."""
    try:
        config = msgspec.convert(read_json(folder / "config.json"), EncoderConfig)
    except msgspec.ValidationError as error:
        raise ModelImportError(f"{folder.name}: config.json: {error}") from None
    if config.scores and len(config.id2label or {"0": ""}) != 1:
        raise ModelImportError(
            f"{folder.name} sorts texts into {len(config.id2label)} classes: use a cross-encoder "
            "with one score, or a model without a head"
        )
    return config


def context_length(folder: Path) -> int:
    """The longest text in tokens: what the model was trained for, if that is told."""
    positions = encoder_config(folder).max_position_embeddings
    told = folder / "sentence_bert_config.json"
    trained = read_json(told).get("max_seq_length") if told.is_file() else None
    return min(trained, positions) if isinstance(trained, int) and trained > 0 else positions


def told_pooling(folder: Path) -> EncoderPooling | None:
    """How the model was trained to be pooled, if its folder says so as sentence-transformers do."""
    told = folder / "1_Pooling" / "config.json"
    if not told.is_file():
        return None
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    modes["last"] = "pooling_mode_lasttoken"
    config = read_json(told)
    return next((it for it in get_args(EncoderPooling) if config.get(modes[it]) is True), None)
