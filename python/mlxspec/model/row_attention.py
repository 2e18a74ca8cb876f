"""Attention of a few new tokens per row over KV rows in place, by kernels of our own.

MLX's own attention reads every row of a slab to its end, and masks; this reads each row as far as
its tokens reach, and each KV head once for all query heads that share it. What it computes is
tried on the user's device before it is used: whether it is right, and for how many rows and tokens
it is faster there (docs/row_attention.md has the measurements). Engine and loader threads.
"""

import math
import struct
import time
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product
from typing import Final, NamedTuple

import mlx.core as mx
import structlog

from mlxspec.model.kv import Rect
from mlxspec.model.row_kernels import THREADS, dialect, kernels

log = structlog.get_logger()

WIDTHS: Final = (1, 5, 17, 33)
"""New tokens per row that are tried, each for what lies below it. KV is read once for a tile of
queries: too often where rows have more, as prompts."""

MANY_ROWS: Final = 8
"""Rows that are tried beside one, and speak for all but one."""

SPLIT: Final = 512
"""Positions per block of threads; measured beside 128 and 256."""

TOLERANCE: Final = 1e-2
"""Relative error, as a root of mean squares, that rounding to 16 bits explains."""

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
    device = dialect()
    if device is None:
        raise RuntimeError("no kernel of row attention for this device")
    num_tokens, heads, _, dim = queries.shape
    part, join = kernels(device, dim, queries.dtype == mx.float16)
    numbers = _numbers(shape, scale)
    cells = (shape.rows, shape.kv_heads, shape.num_splits, shape.num_queries)
    num_tiles = -(-shape.num_queries // device.tile_queries[dim])
    parts, stats = part(
        inputs=[queries, keys, values, positions, numbers],
        grid=(THREADS * shape.num_splits, shape.kv_heads * num_tiles, shape.rows),
        threadgroup=(THREADS, 1, 1),
        output_shapes=[(*cells, dim), (*cells, 2)],
        output_dtypes=[mx.float32, mx.float32],
    )
    [output] = join(
        inputs=[parts, stats, positions, numbers],
        grid=(num_tokens * heads * 32, 1, 1),
        threadgroup=(THREADS, 1, 1),
        output_shapes=[queries.shape],
        output_dtypes=[queries.dtype],
    )
    result: mx.array = output
    return result


def suits(queries: mx.array, keys: mx.array, values: mx.array, rect: Rect) -> bool:
    """Whether `attend` is right and faster for these operands, on this device."""
    device, dim = dialect(), queries.shape[-1]
    return (
        device is not None
        and rect.width <= WIDTHS[-1]
        and dim in device.tile_queries
        and values.shape[-1] == dim
        and queries.dtype in _DTYPES
        and keys.dtype == queries.dtype
        and Case.of(rect) in faster(queries.shape[1], keys.shape[1], dim, queries.dtype)
    )


class Case(NamedTuple):
    """Rows and new tokens of each that are tried, for all that are like it."""

    rows: int
    width: int

    @classmethod
    def of(cls, rect: Rect) -> "Case":
        return cls(1 if rect.rows == 1 else MANY_ROWS, min(it for it in WIDTHS if it >= rect.width))


class Trial(NamedTuple):
    """Relative error of `attend`, and MLX's own time over its time."""

    error: float
    speedup: float


CASES: Final = tuple(Case(*it) for it in product((1, MANY_ROWS), WIDTHS))


@lru_cache
def faster(heads: int, kv_heads: int, dim: int, dtype: mx.Dtype) -> frozenset[Case]:
    """Where the kernel computes what MLX does on this device, and sooner; asked once a model.

    Nowhere if it is wrong anywhere, or does not run: whatever it is that fails, MLX's own
    attention is always there.
    """
    try:
        trials = {case: check(case, heads, kv_heads, dim, dtype) for case in CASES}
    except Exception as failure:  # noqa: BLE001 - a compiler, driver or device of the user's
        log.warning("row attention is off: it does not run here", error=str(failure))
        return frozenset()
    error = max((it.error for it in trials.values()), key=lambda it: (math.isnan(it), it))
    good = {case for case, it in trials.items() if it.speedup > 1} if error <= TOLERANCE else set()
    speedups = {f"{case.rows} x {case.width}": it.speedup for case, it in trials.items()}
    state = "on" if len(good) == len(CASES) else "on where it is faster" if good else "off"
    log.info(f"row attention is {state}", error=error, speedups=speedups)
    return frozenset(good)


def check(case: Case, heads: int, kv_heads: int, dim: int, dtype: mx.Dtype) -> Trial:
    """Try `attend` on ragged random rows."""
    (rows, width), capacity = case, 1024
    first, second, third = mx.random.split(mx.random.key(0), 3)
    queries = mx.random.normal((rows * width, heads, 1, dim), key=first).astype(dtype)
    keys = mx.random.normal((rows, kv_heads, capacity, dim), key=second).astype(dtype)
    values = mx.random.normal((rows, kv_heads, capacity, dim), key=third).astype(dtype)
    starts = (mx.arange(rows) * 97 + 501) % (capacity - width)
    positions = (starts[:, None] + mx.arange(width)).reshape(-1).astype(mx.int32)
    mx.eval(queries, keys, values, positions)
    scale = 1 / math.sqrt(dim)
    shape = Shape(heads // kv_heads, width, kv_heads, rows, capacity, None, 0)
    ours = partial(attend, queries, keys, values, positions, shape=shape, scale=scale)
    stock = partial(masked, queries, keys, values, positions, scale)
    wide = [it.astype(mx.float32) for it in (queries, keys, values)]
    exact = masked(wide[0], wide[1], wide[2], positions, scale)
    error = mx.sqrt(((ours().astype(mx.float32) - exact) ** 2).sum() / (exact**2).sum())
    return Trial(float(error), round(_seconds(stock) / _seconds(ours), 2))


def masked(  # noqa: PLR0917 - the operands of one function
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    positions: mx.array,
    scale: float,
    window: int | None = None,
) -> mx.array:
    """The same by MLX's own attention over whole rows, of which it hides what is not to be seen.

    keys, values: of the tokens' rows alone. The others as for `attend`.
    """
    rows, heads, dim = keys.shape[0], queries.shape[1], queries.shape[-1]
    rectangle = queries.reshape(rows, -1, heads, dim).transpose(0, 2, 1, 3)
    columns, last = mx.arange(keys.shape[2]), positions.reshape(rows, 1, -1, 1)
    mask = columns <= last
    if window is not None:
        mask = mask & (columns > last - window)
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
