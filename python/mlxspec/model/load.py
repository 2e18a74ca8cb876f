"""From a model folder to a model whose attention runs in our KV rows."""

from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import structlog
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import load_model

from mlxspec.errors import ModelImportError
from mlxspec.model import encoder_folder
from mlxspec.model.attention import route_attention, select_before_head
from mlxspec.model.cpu_math import route_swiglu
from mlxspec.model.encoder import Encoder, open_encoder
from mlxspec.model.kv_form import LayerShape
from mlxspec.model.progress import Progress, silent
from mlxspec.model.self_check import UnaddressableError, check_rows

log = structlog.get_logger()

PORTION_BYTES = 64 << 20
"""Weights are read in portions of about this size; between two, a load can be broken off."""


class OpenedModel(NamedTuple):
    """A model whose weights are still on disk, and the bytes that they will take."""

    model: Module
    context_length: int
    num_bytes: int


class LoadedModel(NamedTuple):
    """A model ready to run: its layers' KV shapes, their sliding windows, its context length, and
    the size of its logits.

    Without layers its state cannot lie in our KV rows: it is to be decoded plainly, by mlx-lm's
    own caches, or is an `Encoder`, which has none.
    """

    model: Module
    layers: list[LayerShape]
    windows: list[int | None]
    context_length: int
    vocab: int

    @property
    def is_plain(self) -> bool:
        return not self.layers


def load(folder: Path, dtype: mx.Dtype | None) -> LoadedModel:
    """Load an mlx-lm model folder at once. See `open_model` for arguments and errors."""
    opened = open_model(folder, dtype)
    return adopt(opened.model, opened.context_length)


def open_model(folder: Path, dtype: mx.Dtype | None) -> OpenedModel:
    """Describe an mlx-lm model folder as a model; its weights are read by `adopt`.

    Weights are cast to `dtype` unless quantised (None: as stored). Raises ModelImportError when
    mlx-lm does not know the model. For the thread that also calls `adopt`.
    """
    if encoder_folder.is_encoder(folder):
        encoder = open_encoder(folder, dtype)
        return OpenedModel(encoder, encoder_folder.context_length(folder), _num_bytes(encoder))
    try:
        model, config = load_model(folder, lazy=True)
    except ValueError as error:
        raise ModelImportError(f"{folder.name}: {error}") from None
    if dtype is not None and "quantization" not in config:
        model.set_dtype(dtype)
    return OpenedModel(model, _context_length(config), _num_bytes(model))


def kv_layers(opened: OpenedModel) -> list[LayerShape]:
    """The KV shapes of an opened model's layers, as `adopt` will find them; no weight is read.

    Empty for a model whose state cannot lie in our KV rows.
    """
    caches = make_prompt_cache(opened.model)
    opened.model(mx.zeros((1, 1), mx.uint32), cache=caches)  # described, never computed
    try:
        return _rows(caches)[1]
    except UnaddressableError:
        return []


def adopt(model: Module, context_length: int, progress: Progress = silent) -> LoadedModel:
    """Read an mlx-lm model's weights and make it run in our KV rows, if it can.

    Any thread: the arrays are evaluated, so that another may use them. `progress` may raise to
    break off.
    """
    _read(model, progress)
    if isinstance(model, Encoder):
        return LoadedModel(model, [], [], context_length, 0)
    caches = make_prompt_cache(model)
    logits = model(mx.zeros((1, 1), mx.uint32), cache=caches)
    mx.eval(logits)
    vocab = logits.shape[-1]
    route_attention(model)
    route_swiglu(model)
    select_before_head(model)
    try:
        windows, layers = _rows(caches)
        check_rows(model, layers, windows, vocab)
    except UnaddressableError as error:
        log.warning("model is decoded plainly, without speculation", reason=str(error))
        return LoadedModel(model, [], [], context_length, vocab)
    return LoadedModel(model, layers, windows, context_length, vocab)


def _weights(model: Module) -> list[mx.array]:
    flat: Any = tree_flatten(model.parameters())
    return [array for _, array in flat]


def _num_bytes(model: Module) -> int:
    return sum(array.nbytes for array in _weights(model))


def _read(model: Module, progress: Progress) -> None:
    arrays = _weights(model)
    read, total = 0, sum(array.nbytes for array in arrays)
    portion: list[mx.array] = []
    num_bytes = 0
    for array in arrays:
        portion.append(array)
        num_bytes += array.nbytes
        if num_bytes >= PORTION_BYTES or array is arrays[-1]:
            progress("weights", read, total)
            mx.eval(portion)
            read += num_bytes
            portion, num_bytes = [], 0
    progress("weights", read, total)


def _rows(caches: list[Any]) -> tuple[list[int | None], list[LayerShape]]:
    """Sliding windows and KV shapes of the layers whose caches hold a token.

    Raises UnaddressableError for a cache whose content cannot lie in rows.
    """
    return [_window(cache) for cache in caches], [_layer_shape(cache) for cache in caches]


def _window(cache: Any) -> int | None:
    """The sliding window of the layer that this cache is for."""
    if type(cache) is KVCache:
        return None
    if type(cache) is RotatingKVCache and cache.keep == 0:
        return int(cache.max_size)
    raise UnaddressableError(f"its layers keep their state in {type(cache).__name__}")


def _layer_shape(cache: KVCache | RotatingKVCache) -> LayerShape:
    """Of a layer whose cache holds a token."""
    keys, values = cache.keys, cache.values
    if keys is None:
        raise UnaddressableError("it has layers that keep nothing")
    return LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype)


def _context_length(config: dict[str, Any]) -> int:
    text = config.get("text_config", config)
    return int(text.get("max_position_embeddings") or text.get("n_positions") or 4096)
