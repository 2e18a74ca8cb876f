"""Some layers of the target as its draft model: which ones, found out by measuring.

```
all layers       0 1 2 3 4 5 6 7     says what the target says
that do little   . . . x x . x .     output hardly turns away from input (arXiv 2403.03853)
kept             0 1 2     5   7     shares the weights, has KV of its own
```
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlxspec.model.load import LoadedModel
from mlxspec.model.self_check import check_rows

SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)
"""Of the layers, so many are tried: below lies noise, above it nothing can be won."""


class Trial(NamedTuple):
    """Some layers and how often they said what all of them say, token by token of some texts."""

    kept: tuple[int, ...]
    agreement: float


def try_layers(loaded: LoadedModel, texts: Sequence[list[int]]) -> list[Trial]:
    """Measure some selections of a model's layers, fewest first.

    texts: token ids of ordinary texts. For the thread that loads the model; takes as long as
    reading the texts about four times.
    """
    influence = _influence(loaded.model, texts)
    said = _says(loaded.model, texts)
    by_influence = sorted(range(len(influence)), key=lambda at: -influence[at])
    sizes = sorted({round(share * len(influence)) for share in SHARES} - {0})
    trials = []
    for size in sizes:
        kept = tuple(sorted(by_influence[:size]))
        agrees = [
            one == other
            for ours, theirs in zip(
                _says(with_layers(loaded.model, kept), texts), said, strict=True
            )
            for one, other in zip(ours, theirs, strict=True)
        ]
        trials.append(Trial(kept, sum(agrees) / len(agrees)))
    return trials


def of_layers(loaded: LoadedModel, kept: Sequence[int]) -> LoadedModel:
    """The model of these layers alone, sharing all weights.

    Raises UnaddressableError if it does not compute in our KV rows what it should.
    """
    model = with_layers(loaded.model, kept)
    layers = [loaded.layers[at] for at in kept]
    windows = [loaded.windows[at] for at in kept]
    check_rows(model, layers, windows, loaded.vocab)
    return loaded._replace(model=model, layers=layers, windows=windows)


def with_layers(model: Module, kept: Sequence[int]) -> Module:
    """A model that has some of another's layers, and everything else of it; nothing is copied."""
    chosen: Module = _with(model, lambda layers: [layers[at] for at in kept])
    return chosen


def _with(model: Any, change: Callable[[list[Any]], list[Any]]) -> Any:
    """A model whose backbone, the module `model.model`, has other layers."""
    changed, backbone = copy.copy(model), copy.copy(model.model)
    backbone.layers = change(backbone.layers)
    changed.model = backbone
    return changed


class _Watched:
    """A layer that tells how far it turns what it is given, 0 to 2, mean over all tokens."""

    def __init__(self, layer: Any, turns: list[mx.array]) -> None:
        self._layer = layer
        self._turns = turns

    def __call__(self, hidden: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        output: mx.array = self._layer(hidden, *args, **kwargs)
        before, after = hidden.astype(mx.float32), output.astype(mx.float32)
        lengths = mx.linalg.norm(before, axis=-1) * mx.linalg.norm(after, axis=-1)
        self._turns.append(1 - ((before * after).sum(axis=-1) / lengths).mean())
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def _influence(model: Module, texts: Sequence[list[int]]) -> list[Any]:
    """By layer, how far it turns the hidden states of these texts."""
    turns: list[mx.array] = []
    watched = _with(model, lambda layers: [_Watched(layer, turns) for layer in layers])
    for text in texts:
        mx.eval(watched(mx.array(text)[None]), turns)
    each = mx.stack(turns).reshape(len(texts), -1).mean(axis=0)
    return [each[at].item() for at in range(each.size)]


def _says(model: Module, texts: Sequence[list[int]]) -> list[list[int]]:
    """The likeliest token behind each token of the texts."""
    said: list[Any] = [
        mx.argmax(model(mx.array(text)[None])[0], axis=-1).tolist() for text in texts
    ]
    return said
