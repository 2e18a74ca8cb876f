"""Metal kernels on a CPU: what MLX would hand to Apple's compiler, handed to g++.

MLX writes the whole text of a kernel while it traces a function for export, on any machine.
`metal_emulator.h` says what the words in it mean.
"""

import ctypes
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

HERE = Path(__file__).parent
BITS = {mx.float16: np.uint16, mx.bfloat16: np.uint16, mx.float32: np.float32, mx.int32: np.int32}

ALIGNMENT = 256
COMPILER = shutil.which("g++") if sys.platform == "linux" else None
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-attributes")


class Emulator:
    """Stands in for `mx.fast.metal_kernel`; compiles each text once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._write: Callable[..., Any] = mx.fast.metal_kernel
        self._runs: dict[str, Any] = {}

    def metal_kernel(self, **text: Any) -> Callable[..., list[mx.array]]:
        kernel = self._write(**text)

        def call(
            *,
            inputs: Sequence[mx.array],
            grid: tuple[int, int, int],
            threadgroup: tuple[int, int, int],
            output_shapes: Sequence[tuple[int, ...]],
            output_dtypes: Sequence[mx.Dtype],
        ) -> list[mx.array]:
            shapes = {"output_shapes": output_shapes, "output_dtypes": output_dtypes}
            shown = written(kernel, inputs, grid=grid, threadgroup=threadgroup, **shapes)
            outputs = [
                buffer(np.full(math.prod(shape) * dtype.size, 0xFF, np.uint8))
                for shape, dtype in zip(output_shapes, output_dtypes, strict=True)
            ]
            buffers = [*(buffer(np.asarray(it.view(mx.uint8))) for it in inputs), *outputs]
            failure = self._compiled(shown)(
                (ctypes.c_void_p * len(buffers))(*(it.ctypes.data for it in buffers)),
                (ctypes.c_uint * 3)(*grid),
                (ctypes.c_uint * 3)(*threadgroup),
            )
            if failure:
                raise RuntimeError(failure.decode())
            return [
                mx.array(it.view(BITS[dtype])).view(dtype).reshape(shape)
                for it, shape, dtype in zip(outputs, output_shapes, output_dtypes, strict=True)
            ]

        return call

    def _compiled(self, text: str) -> Any:
        if text not in self._runs:
            source = self._folder / f"{sha256(text.encode()).hexdigest()}.cpp"
            source.write_text(program(text))
            library = source.with_suffix(".so")
            subprocess.run(
                [COMPILER, *FLAGS, "-shared", "-fPIC", "-I", HERE, source, "-o", library],
                check=True,
            )
            self._runs[text] = ctypes.CDLL(str(library)).run
            self._runs[text].restype = ctypes.c_char_p
        return self._runs[text]


def written(kernel: Callable[..., Any], inputs: Sequence[mx.array], **how: Any) -> str:
    """The text that MLX makes of a kernel for such inputs."""
    with tempfile.TemporaryFile() as shown, tempfile.NamedTemporaryFile() as exported:
        stdout = os.dup(1)
        os.dup2(shown.fileno(), 1)
        try:
            traced = lambda *arrays: kernel(inputs=[*arrays], verbose=True, **how)  # noqa: E731
            mx.export_function(exported.name, traced, *inputs)
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        shown.seek(0)
        [text] = re.findall(r"```\n(.*)\n```", shown.read().decode(), re.DOTALL)
    return str(text)


def program(text: str) -> str:
    """The kernel's text, and a function that runs it over a grid.

    The header is ours, and what a threadgroup shares is not each fiber's own.
    """
    text = re.sub(r"#include <metal_\w+>\n", "", text)
    shared = r"uint4* \1 = emulator::threadgroup_memory<\2>();"
    text = re.sub(r"SHARED uint4 (\w+)\[(.*)\];", shared, text)
    [name] = re.findall(r"\[\[kernel\]\] void (\w+)\(", text)
    given = [
        f"emulator::Buffer{{buffers[{it[7:-1]}]}}"
        if it.startswith("buffer(")
        else f"emulator::{it}()"
        for it in re.findall(r"\[\[(buffer\(\d+\)|\w+)\]\][,)]", text)
    ]
    return f"""#include "metal_emulator.h"
{text}
static void** buffers;
extern "C" const char* run(void** given, const unsigned* grid, const unsigned* group) {{
  buffers = given;
  emulator::body = [] {{ {name}({", ".join(given)}); }};
  return emulator::run({{grid[0], grid[1], grid[2]}}, {{group[0], group[1], group[2]}});
}}
"""


def buffer(array: np.ndarray) -> np.ndarray:
    """The same bytes where a buffer of Metal's may begin."""
    room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    aligned = room[start : start + array.nbytes]
    aligned[:] = array.reshape(-1)
    return aligned
