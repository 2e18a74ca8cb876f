"""Calling a model on the tokens of one forward: described anew, or traced once per shape."""

from collections.abc import Callable
from typing import TypeAlias

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlxspec.model.attention import LayerCache, StepAttention
from mlxspec.model.kv import Rect, Slab

Arrays: TypeAlias = list[mx.array]
KVArrays: TypeAlias = list[Arrays]
Traced: TypeAlias = Callable[
    [mx.array, mx.array, KVArrays, KVArrays], tuple[mx.array, KVArrays, KVArrays]
]


class Network:
    """A model that runs in KV slabs. `windows`: per layer its sliding window, or None.

    first_layer: where its layers begin in the slabs, which another model may share.
    compiled: set when forwards over whole slabs are to run as one traced function.
    """

    def __init__(self, model: Module, windows: list[int | None], first_layer: int = 0) -> None:
        self.model = model
        self.windows = windows
        self.first_layer = first_layer
        self.compiled: CompiledForward | None = None

    def __call__(self, attention: StepAttention, tokens: mx.array) -> mx.array:
        """Logits (num_sampled, vocab) of the sampled tokens, or of all if none is named; lazily."""
        if self.compiled is not None and attention.is_whole_slabs:
            logits = self.compiled(attention, tokens)
        else:
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

    @property
    def layers(self) -> slice:
        """Its layers in a slab."""
        return slice(self.first_layer, self.first_layer + len(self.windows))


class CompiledForward:
    """The forward of a step over whole slabs, as a function traced once per shape.

    Describing a step costs the host as long as a GPU needs to run it; a traced one is described
    once. The KV arrays go in and come out, and are still written in place.
    """

    def __init__(self, network: Network) -> None:
        self._own = Network(network.model, network.windows)
        self._layers = network.layers
        self._traced: dict[tuple[Rect, ...], Traced] = {}

    def __call__(self, attention: StepAttention, tokens: mx.array) -> mx.array:
        """Logits (num_tokens, vocab) of all tokens, lazily; the slabs' arrays are replaced.

        Every rectangle covers a slab of its own, see `StepAttention.is_whole_slabs`.
        """
        slabs, own = [attention.slabs[rect.slab] for rect in attention.rects], self._layers
        rects = tuple(rect._replace(slab=at) for at, rect in enumerate(attention.rects))
        if rects not in self._traced:
            self._traced[rects] = mx.compile(self._of(rects))
        keys, values = [slab.keys[own] for slab in slabs], [slab.values[own] for slab in slabs]
        logits, keys, values = self._traced[rects](tokens, attention.positions, keys, values)
        for slab, new_keys, new_values in zip(slabs, keys, values, strict=True):
            slab.keys[own], slab.values[own] = new_keys, new_values
        return logits

    def _of(self, rects: tuple[Rect, ...]) -> Traced:
        def forward(
            tokens: mx.array, positions: mx.array, keys: KVArrays, values: KVArrays
        ) -> tuple[mx.array, KVArrays, KVArrays]:
            pairs = zip(keys, values, strict=True)
            slabs = [Slab(list(slab_keys), list(slab_values)) for slab_keys, slab_values in pairs]
            unknown = [None] * len(rects)
            attention = StepAttention(dict(enumerate(slabs)), rects, positions, unknown, None)
            logits = self._own.describe(attention, tokens)
            return logits, [slab.keys for slab in slabs], [slab.values for slab in slabs]

        return forward
