"""BERT on plain MLX (Devlin et al. 2018): from the tokens of many texts to hidden states.

The texts stand one after another, `[num_tokens]`: what works token by token sees them all at once,
and attention sees each rectangle of the step (`kv.Rect`), in which every row is a text. Modules
and parameters have the names that Hugging Face's files have.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.nn.layers.activations import gelu, gelu_approx, relu
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.normalization import LayerNorm

from mlxspec.errors import ModelImportError
from mlxspec.model.encoder_folder import EncoderConfig, encoder_config
from mlxspec.model.folder_check import weight_files
from mlxspec.model.kv import Rect

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": gelu, "gelu_new": gelu_approx, "relu": relu,
}  # fmt: skip


class Texts(NamedTuple):
    """Where the texts of a forward lie: rectangles, and per rectangle which tokens are no padding,
    (rows, 1, 1, width), or None where none is."""

    rects: Sequence[Rect]
    masks: Sequence[mx.array | None]


class SelfAttention(Module):
    def __init__(self, config: EncoderConfig) -> None:
        Module.__init__(self)
        size = config.hidden_size
        self.query, self.key, self.value = (Linear(size, size) for _ in range(3))
        self._heads = config.num_attention_heads

    def __call__(self, x: mx.array, texts: Texts) -> mx.array:
        queries, keys, values = self.query(x), self.key(x), self.value(x)
        scale = (x.shape[1] / self._heads) ** -0.5
        outputs = []
        for rect, mask in zip(texts.rects, texts.masks, strict=True):
            part = slice(rect.first, rect.stop)
            q, k, v = (self._split(it[part], rect) for it in (queries, keys, values))
            attended = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
            outputs.append(attended.transpose(0, 2, 1, 3).reshape(rect.rows * rect.width, -1))
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)

    def _split(self, x: mx.array, rect: Rect) -> mx.array:
        """(rows * width, size) to (rows, heads, width, size of a head)."""
        return x.reshape(rect.rows, rect.width, self._heads, -1).transpose(0, 2, 1, 3)


class Residual(Module):
    """A linear layer, added to what it came from and normalised."""

    def __init__(self, size: int, config: EncoderConfig) -> None:
        Module.__init__(self)
        self.dense = Linear(size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, x: mx.array, before: mx.array) -> mx.array:
        normed: mx.array = self.LayerNorm(self.dense(x) + before)
        return normed


class Layer(Module):
    def __init__(self, config: EncoderConfig) -> None:
        Module.__init__(self)
        size, inner = config.hidden_size, config.intermediate_size
        self.attention: dict[str, Any] = {"self": SelfAttention(config)}
        self.attention["output"] = Residual(size, config)
        self.intermediate = {"dense": Linear(size, inner)}
        self.output = Residual(inner, config)
        self._activate = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: mx.array, texts: Texts) -> mx.array:
        x = self.attention["output"](self.attention["self"](x, texts), x)
        inner = self._activate(self.intermediate["dense"](x))
        hidden: mx.array = self.output(inner, x)
        return hidden


class Embeddings(Module):
    def __init__(self, config: EncoderConfig) -> None:
        Module.__init__(self)
        size = config.hidden_size
        self.word_embeddings = Embedding(config.vocab_size, size)
        self.position_embeddings = Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = Embedding(config.type_vocab_size, size)
        self.LayerNorm = LayerNorm(size, eps=config.layer_norm_eps)

    def __call__(self, tokens: mx.array, positions: mx.array, types: mx.array) -> mx.array:
        # Padding may lie behind the last position, and must be finite: attention masks it later.
        positions = mx.minimum(positions, self.position_embeddings.weight.shape[0] - 1)
        embedded: mx.array = self.LayerNorm(
            self.word_embeddings(tokens)
            + self.token_type_embeddings(types)
            + self.position_embeddings(positions)
        )
        return embedded


class Encoder(Module):
    """The whole model; a cross-encoder has a head on top."""

    def __init__(self, config: EncoderConfig) -> None:
        Module.__init__(self)
        self.embeddings = Embeddings(config)
        self.encoder = {"layer": [Layer(config) for _ in range(config.num_hidden_layers)]}
        if config.scores:
            self.pooler = {"dense": Linear(config.hidden_size, config.hidden_size)}
            self.classifier = Linear(config.hidden_size, 1)
        self.sep_token = config.sep_token_id
        self.scores = config.scores

    def __call__(
        self, tokens: mx.array, positions: mx.array, types: mx.array, texts: Texts
    ) -> mx.array:
        """Hidden states (num_tokens, dim), lazily. tokens, positions, types: (num_tokens,); the
        type is 1 in the second text of a pair."""
        hidden: mx.array = self.embeddings(tokens, positions, types)
        for layer in self.encoder["layer"]:
            hidden = layer(hidden, texts)
        return hidden

    def head(self, hidden: mx.array) -> mx.array:
        """A cross-encoder's scores (n, 1) by the hidden states (n, dim) of texts' first tokens."""
        scores: mx.array = self.classifier(mx.tanh(self.pooler["dense"](hidden)))
        return scores


def open_encoder(folder: Path, dtype: mx.Dtype | None) -> Encoder:
    """An encoder whose weights are still on disk, as they are stored or cast to `dtype`.

    Raises ModelImportError for a folder whose weights are not those of its config.
    """
    model = Encoder(encoder_config(folder))
    weights: dict[str, mx.array] = {}
    for file in weight_files(folder):
        weights |= {_name(name): it for name, it in _read(file).items() if _is_used(name, model)}
    try:
        model.load_weights(list(weights.items()))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ModelImportError(
            f"{folder.name}: its weights are not a BERT's: {reason:.200}"
        ) from None
    if dtype is not None:
        model.set_dtype(dtype)
    return model


def _read(file: Path) -> dict[str, mx.array]:
    read: Any = mx.load(str(file))
    arrays: dict[str, mx.array] = read
    return arrays


def _name(name: str) -> str:
    """A parameter's name here: files may have `bert.` in front, and old names of LayerNorm's."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _is_used(name: str, model: Encoder) -> bool:
    """Files may hold a pooler, or heads, that an embedding does not go through."""
    heads = ("pooler.", "classifier.", "cls.", "dropout.")
    is_head = _name(name).startswith(heads)
    return not name.endswith("position_ids") and (model.scores or not is_head)
