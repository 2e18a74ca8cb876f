"""From a model folder to a model whose attention runs in our KV rows."""

from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import load_model

from mlxspec.errors import ModelImportError
from mlxspec.model.attention import route_attention, select_before_head
from mlxspec.model.cpu_math import route_swiglu
from mlxspec.model.kv import LayerShape


class LoadedModel(NamedTuple):
    """A model ready to run: its layers' KV shapes, their sliding windows, its context length, and
    the size of its logits."""

    model: Module
    layers: list[LayerShape]
    windows: list[int | None]
    context_length: int
    vocab: int


def load(folder: Path, dtype: mx.Dtype | None) -> LoadedModel:
    """Load an mlx-lm model folder; weights are cast to `dtype` unless quantised (None: as stored).

    Raises ModelImportError when mlx-lm does not know the model, or it keeps a state that cannot be
    addressed by position (recurrent layers).
    """
    try:
        model, config = load_model(folder, lazy=True)
    except ValueError as error:
        raise ModelImportError(f"{folder.name}: {error}") from None
    if dtype is not None and "quantization" not in config:
        model.set_dtype(dtype)
    return adopt(model, _context_length(config))


def adopt(model: Module, context_length: int) -> LoadedModel:
    """Make an mlx-lm model run in our KV rows; evaluates its weights. See `load` for errors."""
    mx.eval(model.parameters())
    windows = [_window(cache) for cache in make_prompt_cache(model)]
    layers, vocab = _layer_shapes(model)
    route_attention(model)
    route_swiglu(model)
    select_before_head(model)
    return LoadedModel(model, layers, windows, context_length, vocab)


def _window(cache: Any) -> int | None:
    """The sliding window of the layer that this cache is for."""
    if type(cache) is KVCache:
        return None
    if type(cache) is RotatingKVCache and cache.keep == 0:
        return int(cache.max_size)
    raise ModelImportError(
        f"layers with a {type(cache).__name__} cannot be batched yet: "
        "use a model whose layers all have plain or sliding-window attention"
    )


def _layer_shapes(model: Module) -> tuple[list[LayerShape], int]:
    """Ask the model itself, by one token through mlx-lm's own caches."""
    caches = make_prompt_cache(model)
    logits = model(mx.zeros((1, 1), mx.uint32), cache=caches)
    mx.eval(logits)
    shapes = []
    for cache in caches:
        keys, values = cache.keys, cache.values
        shapes.append(LayerShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype))
    return shapes, logits.shape[-1]


def _context_length(config: dict[str, Any]) -> int:
    text = config.get("text_config", config)
    return int(text.get("max_position_embeddings") or text.get("n_positions") or 4096)
