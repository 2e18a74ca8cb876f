"""The kernels of row attention: one text of the maths, behind what CUDA or Metal says differently.

`kernels/row_attention.h` is that text; `kernels/cuda.h` and `kernels/metal.h` are the dialects
(docs/row_attention.md). MLX compiles them when they are first evaluated, on the thread that does.
"""

from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, Literal

import mlx.core as mx
from msgspec import Struct

THREADS: Final = 128
"""Of a block: four warps, or SIMD groups, of 32."""

_INPUTS: Final = {
    "part": ["queries", "keys", "values", "positions", "numbers"],
    "join": ["part", "stats", "positions", "numbers"],
}
_OUTPUTS: Final = {"part": ["part", "stats"], "join": ["out"]}
_BODIES: Final = {
    "part": "using Scratch = row_attention::Scratch<Tiles>;\n"
    "SHARED uint4 memory[sizeof(Scratch) / sizeof(uint4)];\n"
    "row_attention::part<Tiles>(*(THREADGROUP Scratch*)memory, {place},\n"
    "    (const DEVICE Tiles::Element*)queries, (const DEVICE Tiles::Element*)keys,\n"
    "    (const DEVICE Tiles::Element*)values, positions, numbers, part, stats);",
    "join": "row_attention::join<Tiles>({place}, part, stats, positions, numbers,\n"
    "    (DEVICE Tiles::Element*)out);",
}


class Dialect(Struct, frozen=True, eq=False):
    """How a backend's kernels are made.

    place: a thread's place, as the body of a kernel reads it; MLX declares what it finds there.
    tile_queries: by head size, queries that share what a block reads; other sizes have no kernel.
    """

    name: Literal["cuda", "metal"]
    place: str
    tile_queries: dict[int, int]


CUDA: Final = Dialect(
    name="cuda",
    place="{blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x}",
    tile_queries={64: 16, 128: 16},
)
METAL: Final = Dialect(
    name="metal",
    place="{threadgroup_position_in_grid.x, threadgroup_position_in_grid.y,"
    " threadgroup_position_in_grid.z,"
    " simdgroup_index_in_threadgroup * 32 + thread_index_in_simdgroup}",
    tile_queries={64: 16, 80: 16, 96: 16, 128: 16, 256: 8},
)


def dialect() -> Dialect | None:
    """That of the device MLX uses, if it has one."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return None
    if mx.cuda.is_available():
        return CUDA
    return METAL if mx.metal.is_available() else None


@lru_cache
def kernels(dialect: Dialect, dim: int, half: bool) -> tuple[Any, Any]:
    """`part` and `join` for heads of `dim` numbers of float16 (`half`) or bfloat16, any shape."""
    part, join = (_kernel(dialect, stage, dim, half) for stage in ("part", "join"))
    return part, join


def _kernel(dialect: Dialect, stage: str, dim: int, half: bool) -> Any:
    texts = (f"{dialect.name}.h", "row_attention.h")
    folder = files("mlxspec.model").joinpath("kernels")
    tiles = f"using Tiles = row_attention::Tiles<{dim}, {str(half).lower()}>;\n"
    compiled = mx.fast.cuda_kernel if dialect is CUDA else mx.fast.metal_kernel
    return compiled(
        name=f"row_attention_{stage}_{dim}_{'half' if half else 'bfloat'}",
        input_names=_INPUTS[stage],
        output_names=_OUTPUTS[stage],
        source=tiles + _BODIES[stage].replace("{place}", dialect.place),
        header="\n".join(folder.joinpath(name).read_text("utf-8") for name in texts),
    )
