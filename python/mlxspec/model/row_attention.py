"""Attention of a few new tokens per row over KV rows in place, by a CUDA kernel of our own.

MLX's own attention reads every row of a slab to its end, and masks; this reads each row as far as
its tokens reach, and each KV head once for all query heads that share it. What it computes is
checked on the user's device before it is used, and whether it is faster there
(docs/row_attention.md has the measurements). Engine and loader threads.
"""

import math
import struct
import time
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.resources import files
from typing import Any, Final, NamedTuple

import mlx.core as mx
import structlog

from mlxspec.model.kv import Rect

log = structlog.get_logger()

MAX_WIDTH: Final = 33
"""KV is read once for every 16 queries: too often where rows have more new tokens, as prompts."""

SPLIT: Final = 512
"""Positions per block of threads; measured beside 128 and 256."""

TOLERANCE: Final = 1e-2
"""Relative error, as a root of mean squares, that rounding to 16 bits explains."""

_THREADS: Final = 128
_HEAD_DIMS: Final = (64, 128)
_DTYPES: Final = (mx.bfloat16, mx.float16)


class Shape(NamedTuple):
    """What the kernel must know of a rectangle over a slab."""

    groups: int
    width: int
    kv_heads: int
    rows: int
    capacity: int
    window: int | None
    slot: int

    @classmethod
    def of(cls, rect: Rect, heads: int, keys: mx.array, window: int | None) -> "Shape":
        """keys: a slab's (slots, kv_heads, capacity, dim)."""
        kv_heads, capacity = keys.shape[1:3]
        groups = heads // kv_heads
        return cls(groups, rect.width, kv_heads, rect.rows, capacity, window, rect.slot)

    @property
    def num_splits(self) -> int:
        return -(-self.capacity // SPLIT)

    @property
    def num_queries(self) -> int:
        """Queries that share a row's KV head."""
        return self.groups * self.width

    @property
    def num_tiles(self) -> int:
        return -(-self.num_queries // 16)


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    positions: mx.array,
    *,
    shape: Shape,
    scale: float,
) -> mx.array:
    """Attention of a rectangle's tokens, (num_tokens, heads, 1, dim), over their own rows.

    queries: (num_tokens, heads, 1, dim), row by row. keys, values: all of a slab's,
    (slots, kv_heads, capacity, dim), the capacity in whole blocks, as 16 positions are read at
    once. positions: (num_tokens,) int32; a token sees its row up to there, its own position
    included.
    """
    num_tokens, heads, _, dim = queries.shape
    part, join = _kernels(dim, queries.dtype == mx.float16)
    numbers = _numbers(shape, scale)
    cells = (shape.rows, shape.kv_heads, shape.num_splits, shape.num_queries)
    parts, stats = part(
        inputs=[queries, keys, values, positions, numbers],
        grid=(_THREADS * shape.num_splits, shape.kv_heads * shape.num_tiles, shape.rows),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(*cells, dim), (*cells, 2)],
        output_dtypes=[mx.float32, mx.float32],
    )
    [output] = join(
        inputs=[parts, stats, positions, numbers],
        grid=(num_tokens * heads * 32, 1, 1),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[queries.shape],
        output_dtypes=[queries.dtype],
    )
    result: mx.array = output
    return result


def suits(queries: mx.array, keys: mx.array, values: mx.array, width: int) -> bool:
    """Whether `attend` is right and faster for these operands, on this device."""
    dim = queries.shape[-1]
    return (
        width <= MAX_WIDTH
        and dim in _HEAD_DIMS
        and values.shape[-1] == dim
        and queries.dtype in _DTYPES
        and keys.dtype == queries.dtype
        and passes(queries.shape[1], keys.shape[1], dim, queries.dtype)
    )


@lru_cache
def passes(heads: int, kv_heads: int, dim: int, dtype: mx.Dtype) -> bool:
    """Whether the kernel computes what MLX does on this device, and sooner; asked once a model."""
    if not mx.cuda.is_available() or mx.default_device().type != mx.DeviceType.gpu:
        return False
    try:
        error, speedup = check(heads, kv_heads, dim, dtype)
    except (RuntimeError, ValueError) as failure:
        log.warning("row attention is off: it does not run here", error=str(failure))
        return False
    good = error <= TOLERANCE and speedup > 1
    log.info("row attention is " + ("on" if good else "off"), error=error, speedup=speedup)
    return good


def check(heads: int, kv_heads: int, dim: int, dtype: mx.Dtype) -> tuple[float, float]:
    """Relative error of `attend` on ragged random rows, and MLX's own time over its time."""
    rows, width, capacity = 8, 5, 1024
    first, second, third = mx.random.split(mx.random.key(0), 3)
    queries = mx.random.normal((rows * width, heads, 1, dim), key=first).astype(dtype)
    keys = mx.random.normal((rows, kv_heads, capacity, dim), key=second).astype(dtype)
    values = mx.random.normal((rows, kv_heads, capacity, dim), key=third).astype(dtype)
    starts = (mx.arange(rows) * 97 + 11) % (capacity - width)
    positions = (starts[:, None] + mx.arange(width)).reshape(-1).astype(mx.int32)
    mx.eval(queries, keys, values, positions)
    scale = 1 / math.sqrt(dim)
    shape = Shape(heads // kv_heads, width, kv_heads, rows, capacity, None, 0)
    ours = partial(attend, queries, keys, values, positions, shape=shape, scale=scale)
    stock = partial(masked, queries, keys, values, positions, scale)
    wide = [it.astype(mx.float32) for it in (queries, keys, values)]
    exact = masked(wide[0], wide[1], wide[2], positions, scale)
    error = mx.sqrt(((ours().astype(mx.float32) - exact) ** 2).sum() / (exact**2).sum())
    return float(error), round(_seconds(stock) / _seconds(ours), 2)


def masked(
    queries: mx.array, keys: mx.array, values: mx.array, positions: mx.array, scale: float
) -> mx.array:
    """The same by MLX's own attention over whole rows, of which it hides what is not to be seen.

    keys, values: of the tokens' rows alone. The others as for `attend`.
    """
    rows, heads, dim = keys.shape[0], queries.shape[1], queries.shape[-1]
    rectangle = queries.reshape(rows, -1, heads, dim).transpose(0, 2, 1, 3)
    mask = mx.arange(keys.shape[2]) <= positions.reshape(rows, 1, -1, 1)
    output = mx.fast.scaled_dot_product_attention(rectangle, keys, values, scale=scale, mask=mask)
    return output.transpose(0, 2, 1, 3).reshape(queries.shape)


def _seconds(call: Callable[[], mx.array], layers: int = 16) -> float:
    """The best of some runs of as many calls as a model has layers."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        mx.eval([call() for _ in range(layers)])
        times.append(time.perf_counter() - start)
    return min(times[1:])


@lru_cache(maxsize=4096)
def _numbers(shape: Shape, scale: float) -> mx.array:
    """`shape` and the bits of `scale`, as the kernel's `Shape` reads them."""
    bits = struct.unpack("i", struct.pack("f", scale))[0]
    splits = (SPLIT, shape.num_splits)
    numbers = mx.array([*shape[:5], *splits, shape.window or 0, shape.slot, bits], mx.int32)
    mx.eval(numbers)
    return numbers


@lru_cache
def _kernels(dim: int, half: bool) -> tuple[Any, Any]:
    """Compiled by MLX when first called, for every shape at once."""
    header = files("mlxspec.model").joinpath("cuda", "row_attention.cu").read_text("utf-8")
    inputs = {
        "part": ["queries", "keys", "values", "positions", "numbers"],
        "join": ["part", "stats", "positions", "numbers"],
    }
    outputs = {"part": ["part", "stats"], "join": ["out"]}
    part, join = (
        mx.fast.cuda_kernel(
            name=f"row_attention_{stage}_{dim}_{'half' if half else 'bfloat'}",
            input_names=inputs[stage],
            output_names=outputs[stage],
            source=f"row_attention_{stage}<{dim}, {str(half).lower()}>"
            f"({', '.join(inputs[stage] + outputs[stage])});",
            header=header,
        )
        for stage in ("part", "join")
    )
    return part, join
