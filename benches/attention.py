"""Attention alone on a GPU: our kernel over KV rows in place beside MLX's own over masked rows.

    python benches/attention.py

Per shape: milliseconds of all layers' attention of one step, the time that reading the keys and
values in use takes at the device's bandwidth, and our relative error against float32.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from mlxspec.model import row_attention

BYTES_PER_SECOND = 3.35e12
"""Of an H100's memory; by data sheet."""

SETS = 4
"""Inputs take turns, so that none is in a cache."""


class Case(NamedTuple):
    rows: int
    width: int
    capacity: int
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    layers: int = 32


CASES = [
    *(Case(rows, width, 1024) for rows in (8, 32) for width in (1, 5, 17, 33)),
    Case(1, 1, 8192),
    Case(1, 5, 8192),
    Case(8, 5, 4096),
    Case(32, 5, 4096),
    Case(8, 1, 512, 9, 3, 64, 30),
    Case(32, 5, 512, 9, 3, 64, 30),
]


class Operands(NamedTuple):
    queries: mx.array
    keys: mx.array
    values: mx.array


def operands(case: Case, seed: int) -> Operands:
    first, second, third = mx.random.split(mx.random.key(seed), 3)
    cache = (case.rows, case.kv_heads, case.capacity, case.dim)
    made = Operands(
        mx.random.normal((case.rows * case.width, case.heads, 1, case.dim), key=first),
        mx.random.normal(cache, key=second),
        mx.random.normal(cache, key=third),
    )
    narrow = Operands(*(it.astype(mx.bfloat16) for it in made))
    mx.eval(narrow)
    return narrow


def milliseconds(layer: Callable[[int], mx.array], layers: int) -> float:
    start = time.perf_counter()
    mx.eval([layer(at) for at in range(layers)])
    return (time.perf_counter() - start) * 1e3


def measure(case: Case, rounds: int) -> None:
    chance = random.Random(case.rows)
    low, high = case.capacity // 4, case.capacity - case.width
    starts = [chance.randint(low, high) for _ in range(case.rows)]
    positions = mx.array([at + i for at in starts for i in range(case.width)], mx.int32)
    sets = [operands(case, seed) for seed in range(SETS)]
    scale = 1 / math.sqrt(case.dim)
    groups = case.heads // case.kv_heads
    shape = row_attention.Shape(
        groups, case.width, case.kv_heads, case.rows, case.capacity, None, 0
    )

    def ours(at: int) -> mx.array:
        return row_attention.attend(*sets[at % SETS], positions, shape=shape, scale=scale)

    def theirs(at: int) -> mx.array:
        return row_attention.masked(*sets[at % SETS], positions, scale)

    wide = Operands(*(it.astype(mx.float32) for it in sets[0]))
    exact = row_attention.masked(*wide, positions, scale)
    error = mx.sqrt(((ours(0).astype(mx.float32) - exact) ** 2).sum() / (exact**2).sum()).item()
    times: dict[str, list[float]] = {"mlx": [], "ours": []}
    for _ in range(rounds):
        times["mlx"].append(milliseconds(theirs, case.layers))
        times["ours"].append(milliseconds(ours, case.layers))
    mlx, own = (statistics.median(it[1:]) for it in times.values())
    bytes_read = sum(starts) * case.kv_heads * case.dim * 2 * 2 * case.layers
    floor = bytes_read / BYTES_PER_SECOND * 1e3
    name = f"{case.rows} x {case.width} of {case.capacity}, heads {case.heads}/{case.kv_heads}"
    print(
        f"{name:>32} dim {case.dim:>3}: mlx {mlx:6.2f} ours {own:6.2f} "
        f"floor {floor:6.2f} ratio {mlx / own:5.2f} error {error:.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("ms of one step's attention")
    for case in CASES:
        measure(case, options.rounds)


if __name__ == "__main__":
    main()
