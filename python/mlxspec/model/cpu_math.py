"""Exponentials and maxima that MLX's CPU backend computes fast: a prompt is read a fifth sooner.

MLX takes them one at a time from libm there, 12 ns each on x86, and a prompt of 128 tokens needs
half a million of them in every layer. Products, sums and bit shifts it vectorises, above all when
compiled into one loop. `exp` is made of those, and the two places where a transformer spends its
exponentials, gated activations and attention, use it. For float32; any thread.
"""

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module

LOWEST: Final = -86.0
"""e to a smaller number is taken for 0; the smallest normal float32 is e**-87.3."""

LOG2_E: Final = 1.4426950408889634
LN2_HIGH: Final = 0.693359375
LN2_LOW: Final = -2.12194440e-4
"""ln 2 in two parts, so that `n * LN2_HIGH` is exact for every exponent n (Cody and Waite 1980)."""

ROUND: Final = 1.5 * 2.0**23
"""Adding it to a float32 rounds that to an integer, which then stands in the lowest bits."""

SIZES: Final = 256
"""So many sizes of arrays are kept compiled for; one more is traced in less than 1 ms."""

BLOCK: Final = 256
"""Numbers among which `argmax` looks one by one."""

FEW_SCORES: Final = 12_000
"""Attention over fewer scores is sooner done by MLX's own function: it is one call."""


def _exp(x: mx.array) -> mx.array:
    """2**n * e**rest with |rest| <= ln(2)/2: a polynomial, and n added to the exponent's bits."""
    clipped = mx.maximum(x, LOWEST)
    shifted = clipped * LOG2_E + ROUND
    n = shifted - ROUND
    rest = clipped - n * LN2_HIGH - n * LN2_LOW
    square = rest * rest
    # Terms in pairs: MLX joins eleven operations in a row at most, and so needs fewer loops.
    series = (1 / 24 + rest * (1 / 120)) + square * (1 / 720 + rest * (1 / 5040))
    power = (1.0 + rest) + square * ((0.5 + rest * (1 / 6)) + square * series)
    bits = mx.view(power, mx.int32) + mx.left_shift(mx.view(shifted, mx.int32), 23)
    return mx.view(bits, mx.float32) * (x > LOWEST)


def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    return gate / (1.0 + _exp(mx.minimum(-gate, -LOWEST))) * x


def exp(x: mx.array) -> mx.array:
    """e**x of any shape for x <= 86, with a relative error under 2e-7."""
    return _exp_of(x.size)(x.reshape(-1)).reshape(x.shape)


@lru_cache(maxsize=SIZES)
def _exp_of(size: int) -> Callable[[mx.array], mx.array]:
    """Of its own: MLX searches one function's traces one by one, and never drops any."""
    return mx.compile(partial(_exp))


def argmax(x: mx.array) -> mx.array:
    """`mx.argmax(x, axis=-1)` of (rows, n), the first of equals; on a CPU in half the time.

    MLX finds a maximum there four numbers at a time, but its place one at a time: so first the
    block that has it, then its place in the block.
    """
    rows, size = x.shape
    if not _on_cpu() or size % BLOCK:
        return mx.argmax(x, axis=-1)
    blocks = x.reshape(rows, -1, BLOCK)
    block = mx.argmax(blocks.max(axis=-1), axis=-1)
    inside = mx.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + mx.argmax(inside, axis=-1)


swiglu = mx.compile(_swiglu)
"""silu(gate) * x, as mlx-lm's function of this name."""


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array
) -> mx.array:
    """Scaled dot-product attention, as `mx.fast.scaled_dot_product_attention`.

    queries: (rows, heads, width, dim). keys, values: (rows, kv_heads, view, dim).
    mask: (rows, 1, width, view), true where a query may look; somewhere in each of its lines.
    """
    rows, heads, width, dim = queries.shape
    kv_heads, view = keys.shape[1:3]
    grouped = (queries * scale).reshape(rows, kv_heads, -1, dim)
    scores = (grouped @ keys.swapaxes(-1, -2)).reshape(rows, kv_heads, -1, width, view)
    scores = mx.where(mask[:, :, None], scores, -mx.inf)
    weights = exp(scores - scores.max(axis=-1, keepdims=True))
    sums = weights.sum(axis=-1, keepdims=True).reshape(rows, heads, width, 1)
    outputs = weights.reshape(rows, kv_heads, -1, view) @ values
    return outputs.reshape(rows, heads, width, -1) / sums


def is_faster(queries: mx.array, view: int) -> bool:
    """Whether `attend` is the faster way here: on a CPU, in float32, with scores enough."""
    num_scores = queries.size // queries.shape[-1] * view
    return queries.dtype == mx.float32 and num_scores > FEW_SCORES and _on_cpu()


def route_swiglu(model: Module) -> None:
    """Make the modules that the model is built of use our `swiglu` for float32 on a CPU.

    mlx-lm's model files import the function by name, so it is replaced in each file; other calls
    go where they always went. Doing it twice changes nothing.
    """
    for name in {type(module).__module__ for module in model.modules()}:
        python_module = sys.modules[name]
        original = getattr(python_module, "swiglu", None)
        if original is not None and not hasattr(original, "routes_to_mlxspec"):
            vars(python_module)["swiglu"] = _routed(original)


def _routed(original: Any) -> Any:
    def routed_swiglu(gate: mx.array, x: mx.array) -> mx.array:
        fast = gate.dtype == mx.float32 and _on_cpu()
        result: mx.array = swiglu(gate, x) if fast else original(gate, x)
        return result

    vars(routed_swiglu)["routes_to_mlxspec"] = True
    return routed_swiglu


def _on_cpu() -> bool:
    return bool(mx.default_device().type == mx.DeviceType.cpu)
