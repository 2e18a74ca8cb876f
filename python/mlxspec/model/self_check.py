"""Whether a model computes what it should: asked of itself when it is loaded.

mlx-lm's models are many and new ones come. Nobody has to know beforehand which of them keep to what
our attention expects: a few tokens' logits are compared with those by mlx-lm's own caches.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache

from mlxspec.model.attention import StepAttention
from mlxspec.model.forward import Network
from mlxspec.model.kv import KVStore, Rect
from mlxspec.model.kv_form import LayerShape
from mlxspec.model.state import StateStore

PROMPT = 8
MORE = 3
"""Tokens of the two forwards that are compared: a prompt's, and those behind it."""

ORDINARY = 100
"""Vocabularies begin with special tokens, on which 16 bits may differ by 0.11 already."""

LONG_WINDOW = 256
"""Windows up to this one are looked past, too: that is a prompt of a few hundred tokens."""

MOST_NOISE = {mx.float32: 1e-3}
LOW_PRECISION_NOISE = 0.1
"""Mean difference of logits, by their spread, that other shapes of the same sums may make."""


class UnaddressableError(Exception):
    """The model's state cannot lie in our KV rows; says why."""


def check_rows(
    model: Module, layers: Sequence[LayerShape], windows: list[int | None], vocab: int
) -> None:
    """Compare the model in our KV rows with itself; raises UnaddressableError unless they agree."""
    short = [window for window in windows if window is not None and window <= LONG_WINDOW]
    chunks = [max([0, *short]) + PROMPT, MORE]
    tokens = mx.arange(ORDINARY, ORDINARY + sum(chunks), dtype=mx.uint32) % vocab
    expected = _own(model, tokens, chunks)
    computed = _attempt(lambda: _in_rows(Network(model, windows), layers, tokens, chunks))
    if not agree(computed, expected):
        raise UnaddressableError("in our KV rows it computes something else")


def batches(model: Module, vocab: int) -> bool:
    """Whether rows of different lengths, each with mlx-lm's caches, can be decoded as one batch."""
    next_tokens = mx.array([[3], [5]]) % vocab
    alone, together = StateStore(model), StateStore(model)
    for store in (alone, together):
        store.create(0, 2, PROMPT + MORE)
        for slot, length in enumerate((MORE, PROMPT)):
            prompt = mx.arange(1, 1 + length, dtype=mx.uint32) % vocab
            mx.eval(model(prompt[None], cache=store.row(0, slot, 0)))
    expected = mx.concatenate(
        [model(next_tokens[slot][None], cache=alone.row(0, slot, 1)) for slot in (0, 1)]
    )
    try:
        computed = _attempt(lambda: model(next_tokens, cache=together.batch(0, [0, 1])))
    except UnaddressableError:
        return False
    return agree(computed, expected)


def agree(computed: mx.array, expected: mx.array) -> bool:
    """Whether logits are the same, up to rounding. A NaN is not."""
    most = MOST_NOISE.get(expected.dtype, LOW_PRECISION_NOISE)
    expected = expected.astype(mx.float32)
    difference = mx.abs(computed.astype(mx.float32) - expected).mean()
    return bool((difference <= most * mx.sqrt(mx.var(expected))).item())


def _attempt(compute: Callable[[], mx.array]) -> mx.array:
    """The result; whatever the model's code raises, it does not bear what it was given."""
    try:
        result = compute()
        mx.eval(result)
    except Exception as error:
        raise UnaddressableError(f"in our KV rows it fails: {error}") from error
    return result


def _own(model: Module, tokens: mx.array, chunks: list[int]) -> mx.array:
    caches = make_prompt_cache(model)
    logits, start = [], 0
    for width in chunks:
        logits.append(model(tokens[None, start : start + width], cache=caches)[0])
        start += width
    return mx.concatenate(logits)


def _in_rows(
    network: Network, layers: Sequence[LayerShape], tokens: mx.array, chunks: list[int]
) -> mx.array:
    store = KVStore(layers)
    store.create(0, 1, sum(chunks))
    logits, start = [], 0
    for width in chunks:
        end = start + width
        rect = Rect(slab=0, slot=0, rows=1, width=width, first=0, view=end)
        attention = StepAttention(store.slabs, [rect], mx.arange(start, end), [start], None)
        logits.append(network(attention, tokens[start:end]))
        mx.eval(logits[-1], attention.touched())
        start = end
    return mx.concatenate(logits)
