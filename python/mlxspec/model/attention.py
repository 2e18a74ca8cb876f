"""Attention of one packed step, through mlx-lm's own model code.

The model runs on one token per batch row, `[num_tokens, 1]`: everything in it but attention works
row by row, and RoPE takes one position per row. Attention is ours: mlx-lm's models call
`scaled_dot_product_attention` with the cache they were given, and ours (`LayerCache`) writes the
new keys and values into the slabs and attends rectangle by rectangle.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlxspec.model import cpu_math, row_attention
from mlxspec.model.kv import Rect, Slab, write
from mlxspec.model.kv_form import Stored, decode, encode


class StepAttention:
    """Where the tokens of one step lie in KV memory; shared by the caches of all layers.

    positions: (num_tokens,) int32, each token's position in its row.
    starts: per rectangle its first position as a number, or None where it must stay symbolic.
    sampled: indices of the tokens whose logits are wanted, or None for all.
    keeps_hidden: whether `hidden` is wanted: the hidden states (num_tokens, dim) that the output
    head gets. They stay None for models whose backbone does not stand apart.
    """

    def __init__(
        self,
        slabs: Mapping[int, Slab],
        rects: Sequence[Rect],
        positions: mx.array,
        starts: Sequence[int | None],
        sampled: mx.array | None,
        *,
        keeps_hidden: bool = False,
    ) -> None:
        self.slabs = slabs
        self.rects = rects
        self.positions = positions
        self.starts = starts
        self.sampled = sampled
        self.selected = False
        self.keeps_hidden = keeps_hidden
        self.hidden: mx.array | None = None
        self._index = [self._rect_positions(rect)[:, None, :, None] for rect in rects]
        self._masks: dict[int | None, list[mx.array]] = {}

    @property
    def is_whole_slabs(self) -> bool:
        """Every rectangle covers all rows of a slab: the shape that padded decoding has."""
        return all(rect.rows == self.slabs[rect.slab].slots for rect in self.rects)

    @property
    def samples_all(self) -> bool:
        """Every token's logits are wanted: nobody reads a prompt."""
        return self.sampled is not None and self.sampled.size == self.positions.size

    def _rect_positions(self, rect: Rect) -> mx.array:
        return self.positions[rect.first : rect.stop].reshape(rect.rows, rect.width)

    def masks(self, window: int | None) -> list[mx.array]:
        """Per rectangle (rows, 1, width, view): which positions each new token may look at."""
        if window not in self._masks:
            self._masks[window] = [self._mask(rect, window) for rect in self.rects]
        return self._masks[window]

    def _mask(self, rect: Rect, window: int | None) -> mx.array:
        columns = mx.arange(rect.view)
        position = self._rect_positions(rect)[:, None, :, None]
        mask = columns <= position
        return mask if window is None else mask & (columns > position - window)

    def write(self, layer: int, keys: mx.array, values: mx.array) -> None:
        """Write all new keys and values: (num_tokens, kv_heads, 1, dim)."""
        for rect, start, index in zip(self.rects, self.starts, self._index, strict=True):
            slab = self.slabs[rect.slab]
            groups = slab.layers[layer].groups
            for kept, new in ((slab.keys, keys), (slab.values, values)):
                stored = encode(_to_rect(new, rect), groups)
                kept[layer] = write(kept[layer], rect, start, index, stored)

    def attend(
        self,
        layer: int,
        queries: mx.array,
        scale: float,
        window: int | None,
        sinks: mx.array | None,
    ) -> mx.array:
        """Attention of (num_tokens, heads, 1, dim) queries over their own rows."""
        outputs = []
        for at, rect in enumerate(self.rects):
            slab = self.slabs[rect.slab]
            keys, values = slab.keys[layer], slab.values[layer]
            groups = slab.layers[layer].groups
            plain = groups is None and sinks is None
            if plain and row_attention.suits(queries, keys[0], values[0], rect):
                mine = slice(rect.first, rect.stop)
                operands = queries[mine], keys[0], values[0], self.positions[mine]
                shape = row_attention.Shape.of(rect, queries.shape[1], keys[0], window)
                outputs.append(row_attention.attend(*operands, shape=shape, scale=scale))
                continue
            output = _attend_rect(
                _to_rect(queries, rect),
                decode(_view(keys, rect), groups),
                decode(_view(values, rect), groups),
                scale,
                self.masks(window)[at],
                sinks,
            )
            outputs.append(_from_rect(output))
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)

    def touched(self) -> list[mx.array]:
        """The KV arrays this step wrote, to be evaluated with its results."""
        slabs = {rect.slab for rect in self.rects}
        return [array for slab in slabs for array in self.slabs[slab].arrays()]


def _view(stored: Stored, rect: Rect) -> Stored:
    """The positions that a rectangle's attention looks at."""
    rows = slice(rect.slot, rect.slot + rect.rows)
    return tuple(array[rows, :, : rect.view] for array in stored)


def _attend_rect(  # noqa: PLR0917 - the operands of one function
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array,
    sinks: mx.array | None,
) -> mx.array:
    if sinks is None and cpu_math.is_faster(queries, keys.shape[2]):
        return cpu_math.attend(queries, keys, values, scale, mask)
    return mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=scale, mask=mask, sinks=sinks
    )


def _to_rect(packed: mx.array, rect: Rect) -> mx.array:
    """(num_tokens, heads, 1, dim) to the rectangle's (rows, heads, width, dim)."""
    num_tokens, heads, _, dim = packed.shape
    alone = rect.stop - rect.first == num_tokens
    part = packed if alone else packed[rect.first : rect.stop]
    if rect.width == 1:
        return part
    return part.reshape(rect.rows, rect.width, heads, dim).transpose(0, 2, 1, 3)


def _from_rect(output: mx.array) -> mx.array:
    """(rows, heads, width, dim) back to (rows * width, heads, 1, dim)."""
    rows, heads, width, dim = output.shape
    if width == 1:
        return output
    return output.transpose(0, 2, 1, 3).reshape(rows * width, heads, 1, dim)


class Window:
    """What `make_mask` hands through the model to attention: the layer's window, if any."""

    def __init__(self, size: int | None) -> None:
        self.size = size


class LayerCache:
    """One layer's cache in one step, as mlx-lm's models expect it."""

    def __init__(self, step: StepAttention, layer: int, window: int | None) -> None:
        self.step = step
        self.layer = layer
        self.window = window
        self.offset = step.positions

    def make_mask(
        self, num_tokens: int, return_array: bool = False, window_size: int | None = None
    ) -> Window:
        """Nothing is masked here: attention masks by position."""
        return Window(window_size or self.window)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the new keys and values; they pass through only to keep the model's code happy."""
        self.step.write(self.layer, keys, values)
        return keys, values

    def attend(
        self, queries: mx.array, scale: float, mask: object, sinks: mx.array | None
    ) -> mx.array:
        window = mask.size if isinstance(mask, Window) else self.window
        return self.step.attend(self.layer, queries, scale, window, sinks)


class KnownHidden:
    """Stands for the caches of a model that is to apply its head alone, to `hidden` (n, dim)."""

    def __init__(self, hidden: mx.array) -> None:
        self.hidden = hidden[:, None]


def route_attention(model: Module) -> None:
    """Make the modules that the model is built of send our caches' attention here.

    mlx-lm's model files import the function by name, so it is replaced in each file; calls with
    any other cache go where they always went. Doing it twice changes nothing.
    """
    for name in {type(module).__module__ for module in model.modules()}:
        python_module = sys.modules[name]
        original = getattr(python_module, "scaled_dot_product_attention", None)
        if original is not None and not hasattr(original, "routes_to_mlxspec"):
            vars(python_module)["scaled_dot_product_attention"] = _routed(original)


def _routed(original: Any) -> Any:
    def scaled_dot_product_attention(  # noqa: PLR0917 - as mlx-lm calls it
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any,
        scale: float,
        mask: Any,
        sinks: mx.array | None = None,
    ) -> mx.array:
        if isinstance(cache, LayerCache):
            return cache.attend(queries, scale, mask, sinks)
        result: mx.array = original(queries, keys, values, cache, scale, mask, sinks)
        return result

    vars(scaled_dot_product_attention)["routes_to_mlxspec"] = True
    return scaled_dot_product_attention


def has_backbone(model: Module) -> bool:
    """Whether hidden states can be read in front of its head."""
    return hasattr(type(getattr(model, "model", None)), "selects_rows")


def select_before_head(model: Module) -> None:
    """Let the output head see only the sampled tokens' hidden states.

    mlx-lm's models compute `head(self.model(inputs, cache))`; the backbone's class is replaced by
    a subclass of it that drops the other rows, and passes hidden states on that are known already
    (`KnownHidden`). Models built differently keep all rows, and the
    step selects their logits instead.
    """
    backbone = getattr(model, "model", None)
    if not isinstance(backbone, Module) or hasattr(type(backbone), "selects_rows"):
        return
    parent = type(backbone)

    def call(self: Module, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("cache") or next((it for it in args if isinstance(it, list)), None)
        if cache and isinstance(cache[0], KnownHidden):
            return cache[0].hidden
        hidden = parent.__call__(self, *args, **kwargs)
        step = cache[0].step if cache and isinstance(cache[0], LayerCache) else None
        if step is None or not isinstance(hidden, mx.array):
            return hidden
        if step.keeps_hidden:
            step.hidden = hidden[:, -1]
        if step.sampled is None:
            return hidden
        step.selected = True
        return hidden[step.sampled]

    backbone.__class__ = type(parent.__name__, (parent,), {"__call__": call, "selects_rows": True})
