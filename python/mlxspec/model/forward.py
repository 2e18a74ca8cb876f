"""Calling the model on the tokens of one step: described anew, or traced once per shape."""

from collections.abc import Callable
from typing import TypeAlias

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlxspec.model.attention import LayerCache, StepAttention
from mlxspec.model.kv import Rect, Slab

Arrays: TypeAlias = list[mx.array]
Traced: TypeAlias = Callable[[mx.array, mx.array, Arrays, Arrays], tuple[mx.array, Arrays, Arrays]]


def call_model(
    model: Module, windows: list[int | None], attention: StepAttention, tokens: mx.array
) -> mx.array:
    """Logits (num_tokens or num_sampled, vocab), lazily; `attention.selected` says which."""
    caches = [LayerCache(attention, at, window) for at, window in enumerate(windows)]
    logits: mx.array = model(tokens[:, None], cache=caches)
    return logits[:, -1]


class CompiledForward:
    """The forward of one rectangle over a whole slab, as a function traced once per shape.

    Describing a step costs the host as long as a GPU needs to run it; a traced one is described
    once. The KV arrays go in and come out, and are still written in place.
    """

    def __init__(self, model: Module, windows: list[int | None]) -> None:
        self._model = model
        self._windows = windows
        self._traced: dict[Rect, Traced] = {}

    def __call__(self, attention: StepAttention, tokens: mx.array) -> mx.array:
        """Logits (num_tokens, vocab) of all tokens, lazily; the slab's arrays are replaced."""
        rect = attention.rects[0]
        slab = attention.slabs[rect.slab]
        anonymous = rect._replace(slab=0)
        if anonymous not in self._traced:
            self._traced[anonymous] = mx.compile(self._of(anonymous))
        traced = self._traced[anonymous]
        logits, slab.keys, slab.values = traced(tokens, attention.positions, slab.keys, slab.values)
        return logits

    def _of(self, rect: Rect) -> Traced:
        def forward(
            tokens: mx.array, positions: mx.array, keys: Arrays, values: Arrays
        ) -> tuple[mx.array, Arrays, Arrays]:
            slab = Slab(list(keys), list(values))
            attention = StepAttention({0: slab}, [rect], positions, [None], None)
            logits = call_model(self._model, self._windows, attention, tokens)
            return logits, slab.keys, slab.values

        return forward
