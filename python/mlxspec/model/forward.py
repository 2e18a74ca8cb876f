"""Calling a model on the tokens of one forward: described anew, or traced once per shape."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlxspec.model.attention import KnownHidden, LayerCache, StepAttention
from mlxspec.model.kv import Rect, Slab
from mlxspec.model.kv_form import LayerShape, Stored

KVArrays: TypeAlias = list[list[Stored]]
Shape: TypeAlias = tuple[Rect, ...]
"""A step's rectangles, with slabs counted from 0."""

Traced: TypeAlias = Callable[
    [mx.array, mx.array, KVArrays, KVArrays], tuple[mx.array, KVArrays, KVArrays]
]

KEPT: Final = 64
"""Traced functions of exact layouts; tracing one takes as long as a step of one token."""


class Network:
    """A model that runs in KV slabs. `windows`: per layer its sliding window, or None.

    first_layer: where its layers begin in the slabs, which another model may share.
    compiled: set when forwards of shapes that come again are to run as one traced function.
    """

    def __init__(self, model: Module, windows: list[int | None], first_layer: int = 0) -> None:
        self.model = model
        self.windows = windows
        self.first_layer = first_layer
        self.compiled: CompiledForward | None = None

    def __call__(self, attention: StepAttention, tokens: mx.array) -> mx.array:
        """Logits (num_sampled, vocab) of the sampled tokens, or of all if none is named; lazily."""
        traced = self.compiled is not None and not attention.keeps_hidden
        logits = self.compiled(attention, tokens) if self.compiled and traced else None
        if logits is None:
            logits = self.describe(attention, tokens)
        if attention.sampled is None or attention.selected:
            return logits
        return logits[attention.sampled]

    def describe(self, attention: StepAttention, tokens: mx.array) -> mx.array:
        """Logits (num_tokens or num_sampled, vocab), lazily; `attention.selected` says which."""
        caches = [
            LayerCache(attention, self.first_layer + at, window)
            for at, window in enumerate(self.windows)
        ]
        logits: mx.array = self.model(tokens[:, None], cache=caches)
        return logits[:, -1]

    def head(self, hidden: mx.array) -> mx.array:
        """Logits (n, vocab) by `hidden` (n, dim) that a `StepAttention` has kept; lazily."""
        tokens = mx.zeros((hidden.shape[0], 1), mx.uint32)
        logits: mx.array = self.model(tokens, cache=[KnownHidden(hidden)] * len(self.windows))
        return logits[:, -1]

    @property
    def layers(self) -> slice:
        """Its layers in a slab."""
        return slice(self.first_layer, self.first_layer + len(self.windows))


class CompiledForward:
    """Forwards as functions traced once per shape.

    Describing a step costs the host as long as a GPU needs to run it, and a tenth of what a CPU
    needs for one token; a traced one is described once. The KV arrays go in and come out, and are
    still written in place.

    padded: shapes are few, and each is traced when it is first met; steps with rows that are no
    whole slab are not. Otherwise there are many, and only that of decoding without drafts is
    traced, when it comes twice in a row; those met last are kept. (Other widths would have MLX
    compile kernels in the midst of a request.)
    """

    def __init__(self, network: Network, *, padded: bool) -> None:
        self._own = Network(network.model, network.windows)
        self._layers = network.layers
        self._padded = padded
        self._traced: OrderedDict[Shape, Traced] = OrderedDict()
        self._last: Shape | None = None

    @property
    def num_traced(self) -> int:
        return len(self._traced)

    def __call__(self, attention: StepAttention, tokens: mx.array) -> mx.array | None:
        """Logits (num_tokens, vocab) of all tokens, lazily; the slabs' arrays are replaced.

        None where the step is to be described anew. To be asked of every step, in order.
        """
        shape = _shape(attention)
        again, self._last = shape == self._last, shape
        if not self._takes(attention, shape, again=again):
            return None
        slabs, own = [attention.slabs[it] for it in _slab_ids(attention)], self._layers
        traced = self._trace(shape, slabs[0].layers[own])
        keys, values = [slab.keys[own] for slab in slabs], [slab.values[own] for slab in slabs]
        logits, keys, values = traced(tokens, attention.positions, keys, values)
        for slab, new_keys, new_values in zip(slabs, keys, values, strict=True):
            slab.keys[own], slab.values[own] = new_keys, new_values
        return logits

    def _takes(self, attention: StepAttention, shape: Shape, *, again: bool) -> bool:
        if self._padded:
            return attention.is_whole_slabs
        plain = attention.samples_all and all(rect.width == 1 for rect in shape)
        return plain and (again or shape in self._traced)

    def _trace(self, shape: Shape, layers: Sequence[LayerShape]) -> Traced:
        if shape not in self._traced:
            self._traced[shape] = mx.compile(self._of(shape, layers))
        self._traced.move_to_end(shape)
        if not self._padded and len(self._traced) > KEPT:
            self._traced.popitem(last=False)
        return self._traced[shape]

    def _of(self, rects: Shape, layers: Sequence[LayerShape]) -> Traced:
        def forward(
            tokens: mx.array, positions: mx.array, keys: KVArrays, values: KVArrays
        ) -> tuple[mx.array, KVArrays, KVArrays]:
            pairs = zip(keys, values, strict=True)
            slabs = [
                Slab(layers, list(its_keys), list(its_values)) for its_keys, its_values in pairs
            ]
            unknown = [None] * len(rects)
            attention = StepAttention(dict(enumerate(slabs)), rects, positions, unknown, None)
            logits = self._own.describe(attention, tokens)
            return logits, [slab.keys for slab in slabs], [slab.values for slab in slabs]

        return forward


def _slab_ids(attention: StepAttention) -> list[int]:
    return list(dict.fromkeys(rect.slab for rect in attention.rects))


def _shape(attention: StepAttention) -> Shape:
    number = {slab: at for at, slab in enumerate(_slab_ids(attention))}
    return tuple(rect._replace(slab=number[rect.slab]) for rect in attention.rects)
