"""A random BERT of letters as a folder, and what it computes, written out in numpy."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tiny_models import save_tokenizer

CLS, SEP = 44, 45
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 60,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "sep_token_id": SEP,
}
SCORER = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


def save_encoder(folder: Path, seed: int, **options: Any) -> Path:
    """An encoder's folder; with `SCORER` as options, a cross-encoder's."""
    folder.mkdir()
    config = CONFIG | options
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    shapes = _shapes(config)
    prefix = "bert." if "id2label" in options else ""
    weights = {
        (name if name.startswith("classifier") else prefix + name): _drawn(rng, name, shape)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors")
    save_tokenizer(folder)
    _surround(folder / "tokenizer.json")
    return folder


def pooled(folder: Path, tokens: list[int], pooling: str = "mean") -> np.ndarray:
    """The text's vector of length 1."""
    hidden = hidden_states(folder, tokens)
    vector = {"mean": hidden.mean(axis=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


def score(folder: Path, tokens: list[int], second: int) -> float:
    """A cross-encoder's figure of a pair, whose second text begins at `second`."""
    weights = _weights(folder)
    types = [int(at >= second) for at in range(len(tokens))]
    first = hidden_states(folder, tokens, types)[0]
    figure = _linear(weights, "classifier", np.tanh(_linear(weights, "pooler.dense", first)))
    return 1 / (1 + math.exp(-float(figure[0])))


def hidden_states(folder: Path, tokens: list[int], types: list[int] | None = None) -> np.ndarray:
    """BERT's last hidden states (num_tokens, dim), token by token and head by head."""
    config = json.loads((folder / "config.json").read_text())
    weights, at = _weights(folder), "embeddings."
    x = (
        weights[at + "word_embeddings.weight"][tokens]
        + weights[at + "position_embeddings.weight"][: len(tokens)]
        + weights[at + "token_type_embeddings.weight"][types or [0] * len(tokens)]
    )
    x = _norm(weights, at + "LayerNorm", x)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        attended = _attention(weights, at + "attention.self.", x, config["num_attention_heads"])
        attended = _linear(weights, at + "attention.output.dense", attended)
        x = _norm(weights, at + "attention.output.LayerNorm", attended + x)
        inner = _linear(weights, at + "intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        outer = _linear(weights, at + "output.dense", inner)
        x = _norm(weights, at + "output.LayerNorm", outer + x)
    return x


def _attention(weights: dict[str, Any], at: str, x: np.ndarray, heads: int) -> np.ndarray:
    parts = []
    for head in np.split(np.arange(x.shape[1]), heads):
        q, k, v = (_linear(weights, at + name, x)[:, head] for name in ("query", "key", "value"))
        weight = np.exp(q @ k.T / math.sqrt(len(head)))
        parts.append(weight / weight.sum(axis=1, keepdims=True) @ v)
    return np.concatenate(parts, axis=1)


def _linear(weights: dict[str, Any], name: str, x: np.ndarray) -> np.ndarray:
    result: np.ndarray = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return result


def _norm(weights: dict[str, Any], name: str, x: np.ndarray) -> np.ndarray:
    scaled = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    result: np.ndarray = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return result


def _weights(folder: Path) -> dict[str, Any]:
    loaded = load_file(folder / "model.safetensors")
    return {name.removeprefix("bert."): it.astype(np.float64) for name, it in loaded.items()}


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    size, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (size,), f"{name}.bias": (size,)})

    for name, rows in (("word", 48), ("position", config["max_position_embeddings"])):
        shapes[f"embeddings.{name}_embeddings.weight"] = (rows, size)
    shapes["embeddings.token_type_embeddings.weight"] = (2, size)
    norm("embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            linear(f"{at}attention.self.{name}", size, size)
        linear(f"{at}attention.output.dense", size, size)
        norm(f"{at}attention.output.LayerNorm")
        linear(f"{at}intermediate.dense", inner, size)
        linear(f"{at}output.dense", size, inner)
        norm(f"{at}output.LayerNorm")
    linear("pooler.dense", size, size)
    if "id2label" in config:
        linear("classifier", 1, size)
    return shapes


def _drawn(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    drawn = 0.4 * rng.standard_normal(shape)
    return (drawn + name.endswith("LayerNorm.weight")).astype(np.float32)


def _surround(path: Path) -> None:
    """Let the tokenizer put its special tokens around a text, and between two."""
    tokenizer = json.loads(path.read_text())
    special = {"cls": CLS, "sep": SEP}
    tokenizer["added_tokens"] = [
        {"id": at, "content": f"<{at}>", "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for at in special.values()
    ]
    cls, sep = ({"SpecialToken": {"id": f"<{at}>", "type_id": 0}} for at in (CLS, SEP))
    first, second = ({"Sequence": {"id": it, "type_id": 0}} for it in "AB")
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [cls, first, sep],
        "pair": [cls, first, sep, second, sep],
        "special_tokens": {
            f"<{at}>": {"id": f"<{at}>", "ids": [at], "tokens": [f"<{at}>"]}
            for at in special.values()
        },
    }
    path.write_text(json.dumps(tokenizer))
