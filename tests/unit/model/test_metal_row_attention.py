"""The Metal kernel of row attention, run on an emulation of Metal: what it computes is attention.

That a Mac's compiler takes it, and how fast it is there, is not shown here: the trial before its
first use is for that.
"""

import math
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from metal_emulator import COMPILER, Emulator, written

from mlxspec.model import row_attention, row_kernels
from mlxspec.model.attention import StepAttention
from mlxspec.model.kv import KVStore, Rect
from mlxspec.model.kv_form import LayerShape
from mlxspec.model.row_attention import CASES, Shape

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++ on Linux")
SPACES = Path(__file__).parents[1] / "metal_spaces.h"
JUNK = 2.0**14
"""Finite, as what is stale in a row is, and far from what attention is made of."""


class Given(NamedTuple):
    """A slab of rows, each with new tokens, of which the rectangle takes all but the first row."""

    dim: int
    groups: int
    width: int
    dtype: mx.Dtype = mx.bfloat16
    kv_heads: int = 2
    capacity: int = 112
    window: int | None = None
    rows: int = 3


CHOSEN = [
    *(Given(dim, 4, 5) for dim in (64, 80, 96, 128, 256)),
    *(Given(dim, 3, 2, mx.float16) for dim in (64, 80, 96, 128, 256)),
    *(Given(64, groups, width) for groups in (1, 3, 4, 8) for width in (1, 3, 17)),
    *(Given(128, groups, width) for groups, width in ((1, 17), (3, 9), (8, 1))),
    *(Given(256, groups, width) for groups, width in ((1, 1), (8, 2))),
    Given(80, 8, 17, mx.float16, kv_heads=1),
    Given(96, 1, 4, window=20),
    Given(128, 4, 3, window=1),
    Given(64, 1, 1, kv_heads=1, rows=1),
    Given(64, 2, 3, kv_heads=1, rows=2, capacity=1040),
    Given(128, 1, 2, kv_heads=1, rows=2, capacity=1040, window=600),
]


class Operands(NamedTuple):
    queries: mx.array
    keys: mx.array
    values: mx.array
    positions: mx.array


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("metal"))


@pytest.fixture(autouse=True)
def on_metal(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    monkeypatch.setattr(row_attention, "dialect", lambda: row_kernels.METAL)
    monkeypatch.setattr(row_attention, "faster", lambda *_: frozenset(CASES))
    row_kernels.kernels.cache_clear()


def starts(given: Given) -> list[int]:
    """Where rows' new tokens begin: the first was empty, the last is full now."""
    chance = random.Random(repr(given))
    last = given.capacity - given.width
    return [0, *(chance.randrange(last) for _ in range(given.rows - 2)), last][: given.rows]


def operands(given: Given) -> Operands:
    keys = mx.random.split(mx.random.key(3), 3)
    rows, width, heads = given.rows, given.width, given.groups * given.kv_heads
    cache = (rows + 2, given.kv_heads, given.capacity, given.dim)
    queries, cached_keys, cached_values = (
        mx.random.normal(shape, key=key)
        for shape, key in zip(
            [(rows * width, heads, 1, given.dim), cache, cache], keys, strict=True
        )
    )
    positions = mx.array(starts(given))[:, None] + mx.arange(width)
    ends = mx.concatenate([mx.array([-1]), positions[:, -1], mx.array([-1])])
    stale = mx.arange(given.capacity)[None, :] > ends[:, None]
    junk = mx.where(mx.arange(given.capacity) % 2 == 0, JUNK, -JUNK)[None, :]
    others = mx.array([math.nan, *[0.0] * rows, math.nan])[:, None]
    filled = mx.where(stale, junk + others, 0)[:, None, :, None]
    kept = [
        mx.where(stale[:, None, :, None], filled, it).astype(given.dtype)
        for it in (cached_keys, cached_values)
    ]
    return Operands(
        queries.astype(given.dtype), kept[0], kept[1], positions.reshape(-1).astype(mx.int32)
    )


def attend(given: Given, made: Operands) -> mx.array:
    shape = Shape(
        given.groups, given.width, given.kv_heads, given.rows, given.capacity, given.window, 1
    )
    return row_attention.attend(*made, shape=shape, scale=1 / math.sqrt(given.dim))


def exactly(given: Given, made: Operands) -> mx.array:
    """MLX's own attention in float32, which sees none of the junk."""
    mine = slice(1, given.rows + 1)
    wide = [it.astype(mx.float32) for it in (made.queries, made.keys[mine], made.values[mine])]
    scale = 1 / math.sqrt(given.dim)
    return row_attention.masked(wide[0], wide[1], wide[2], made.positions, scale, given.window)


@pytest.mark.parametrize("given", CHOSEN, ids=lambda it: "-".join(str(part) for part in it))
def test_it_is_masked_attention(given: Given) -> None:
    made = operands(given)
    ours, exact = attend(given, made).astype(mx.float32), exactly(given, made)
    error = mx.sqrt(((ours - exact) ** 2).sum() / (exact**2).sum()).item()
    assert error < (3e-3 if given.dtype == mx.bfloat16 else 4e-4)


def test_a_tokens_attention_is_the_same_alone_and_with_drafts_behind_it() -> None:
    wide = Given(64, 3, 17)
    made = operands(wide)
    together = attend(wide, made).reshape(wide.rows, wide.width, -1)
    first = made.positions.reshape(wide.rows, wide.width)[:, 0]
    queries = made.queries.reshape(wide.rows, wide.width, *made.queries.shape[1:])[:, 0]
    alone = attend(wide._replace(width=1), Operands(queries, made.keys, made.values, first))
    assert mx.array_equal(alone.reshape(wide.rows, -1), together[:, 0])


def test_the_emulation_tells_of_a_barrier_that_not_all_threads_reach(emulator: Emulator) -> None:
    names = {"name": "barrier", "input_names": ["in"], "output_names": ["out"], "header": ""}
    barrier = "threadgroup_barrier(mem_flags::mem_threadgroup);\nout[0] = in[0];"
    sizes: dict[str, Any] = {"grid": (64, 1, 1), "threadgroup": (64, 1, 1)}
    outputs = {"output_shapes": [(1,)], "output_dtypes": [mx.float32]}
    one = mx.ones((1,))
    kernel = emulator.metal_kernel(source=barrier, **names)
    assert kernel(inputs=[one], **sizes, **outputs)[0].item() == 1
    kernel = emulator.metal_kernel(source=f"if (thread_index_in_simdgroup) {barrier}", **names)
    with pytest.raises(RuntimeError, match="wait for one that has ended"):
        kernel(inputs=[one], **sizes, **outputs)


def test_a_step_on_metal_attends_through_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, width, heads, dim = 3, 2, 4, 64
    store = KVStore([LayerShape(num_heads=2, key_dim=dim, value_dim=dim, dtype=mx.bfloat16)])
    store.create(0, 4, 48)
    rect = Rect(slab=0, slot=1, rows=rows, width=width, first=0, view=48)
    starts = mx.array([0, 20, 46])
    positions = (starts[:, None] + mx.arange(width)).reshape(-1).astype(mx.int32)
    first, second, third = mx.random.split(mx.random.key(1), 3)
    queries = mx.random.normal((rows * width, heads, 1, dim), key=first).astype(mx.bfloat16)
    new = [
        mx.random.normal((rows * width, 2, 1, dim), key=key).astype(mx.bfloat16)
        for key in (second, third)
    ]
    step = StepAttention(store.slabs, [rect], positions, [None], None)
    step.write(0, new[0], new[1])
    ours = step.attend(0, queries, 0.125, None, None)
    monkeypatch.setattr(row_attention, "dialect", lambda: None)
    stock = step.attend(0, queries, 0.125, None, None)
    assert not mx.array_equal(ours, stock)
    assert mx.allclose(ours.astype(mx.float32), stock.astype(mx.float32), atol=0.03)


@pytest.mark.parametrize("half", [False, True], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("dim", row_kernels.METAL.tile_queries)
@pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang++")
def test_pointers_keep_their_address_spaces(
    dim: int, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Metal wants: none converts to another. C++14 is what Metal's language is built on."""
    monkeypatch.undo()
    row_kernels.kernels.cache_clear()
    for few in (False, True):
        for text in _texts(dim, mx.float16 if half else mx.bfloat16, few=few):
            source = tmp_path / "kernel.cpp"
            text = re.sub(r"#include <metal_\w+>\n", "", text)
            text = text.replace("SHARED uint4 memory", "static SHARED uint4 memory")
            source.write_text(f'#include "{SPACES}"\n{text}')
            flags = ("-std=c++14", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unknown-attributes")
            subprocess.run(["clang++", *flags, source], check=True)


def _texts(dim: int, dtype: mx.Dtype, *, few: bool) -> tuple[str, str]:
    """Of `part` and `join`; small inputs come in another address space."""
    part, join = row_kernels.kernels(row_kernels.METAL, dim, dtype == mx.float16)
    rows, heads = (1, 1) if few else (8, 4)
    queries, cached = mx.zeros((rows, heads, 1, dim), dtype), mx.zeros((rows, 1, 16, dim), dtype)
    positions, numbers = mx.zeros((rows,), mx.int32), mx.zeros((10,), mx.int32)
    found, stats = mx.zeros((rows, 1, 1, heads, dim)), mx.zeros((rows, 1, 1, heads, 2))
    how: dict[str, Any] = {"grid": (128, 1, 1), "threadgroup": (128, 1, 1)}
    of_part = {"output_shapes": [found.shape, stats.shape], "output_dtypes": [mx.float32] * 2}
    of_join = {"output_shapes": [queries.shape], "output_dtypes": [dtype]}
    return (
        written(part, [queries, cached, cached, positions, numbers], **of_part, **how),
        written(join, [found, stats, positions, numbers], **of_join, **how),
    )
