"""Calling the model on the tokens of one step: described anew, or traced once per shape."""

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


def call_model(
    model: Module, windows: list[int | None], attention: StepAttention, tokens: mx.array
) -> mx.array:
    """Logits (num_tokens or num_sampled, vocab), lazily; `attention.selected` says which."""
    caches = [LayerCache(attention, at, window) for at, window in enumerate(windows)]
    logits: mx.array = model(tokens[:, None], cache=caches)
    return logits[:, -1]


class CompiledForward:
    """The forward of a step over whole slabs, as a function traced once per shape.

    Describing a step costs the host as long as a GPU needs to run it; a traced one is described
    once. The KV arrays go in and come out, and are still written in place.
    """

    def __init__(self, model: Module, windows: list[int | None]) -> None:
        self._model = model
        self._windows = windows
        self._traced: dict[tuple[Rect, ...], Traced] = {}

    def __call__(self, attention: StepAttention, tokens: mx.array) -> mx.array:
        """Logits (num_tokens, vocab) of all tokens, lazily; the slabs' arrays are replaced.

        Every rectangle covers a slab of its own, see `StepAttention.is_whole_slabs`.
        """
        slabs = [attention.slabs[rect.slab] for rect in attention.rects]
        rects = tuple(rect._replace(slab=at) for at, rect in enumerate(attention.rects))
        if rects not in self._traced:
            self._traced[rects] = mx.compile(self._of(rects))
        keys, values = [slab.keys for slab in slabs], [slab.values for slab in slabs]
        logits, keys, values = self._traced[rects](tokens, attention.positions, keys, values)
        for slab, new_keys, new_values in zip(slabs, keys, values, strict=True):
            slab.keys, slab.values = new_keys, new_values
        return logits

    def _of(self, rects: tuple[Rect, ...]) -> Traced:
        def forward(
            tokens: mx.array, positions: mx.array, keys: KVArrays, values: KVArrays
        ) -> tuple[mx.array, KVArrays, KVArrays]:
            pairs = zip(keys, values, strict=True)
            slabs = [Slab(list(slab_keys), list(slab_values)) for slab_keys, slab_values in pairs]
            unknown = [None] * len(rects)
            attention = StepAttention(dict(enumerate(slabs)), rects, positions, unknown, None)
            logits = call_model(self._model, self._windows, attention, tokens)
            return logits, [slab.keys for slab in slabs], [slab.values for slab in slabs]

        return forward
