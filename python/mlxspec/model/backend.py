"""What MLX runs on here, and what must happen before it is first imported.

Nothing at the top of this file imports mlx: on Linux its CPU backend calls whichever BLAS the
process loaded first, so OpenBLAS has to come before it (see `preload_blas`).
"""

import ctypes
import os
import shutil
import sys
from collections.abc import MutableMapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

import msgspec

from mlxspec import __version__
from mlxspec.config import set_defaults
from mlxspec.errors import ConfigError
from mlxspec.model.host_memory import host_memory

Kind = Literal["metal", "cuda", "cpu"]
WeightDtype = Literal["float32", "float16", "bfloat16"]

OPENBLAS: Final = "libopenblas.so.0"
OPENBLAS_ADVICE: Final = (
    "install openblas for ~10x faster prefill: apt-get install libopenblas0-pthread "
    "(fedora: dnf install openblas, arch: pacman -S openblas)"
)
COMPILER_ADVICE: Final = (
    "install g++ so that mlx can compile on cpu: apt-get install g++ "
    "(fedora: dnf install gcc-c++, arch: pacman -S gcc)"
)
CUDA_DEFAULTS: Final = {"MLX_CUDA_GRAPH_CACHE_SIZE": "2048", "MLX_CUDA_SDPA_CACHE_SIZE": "2048"}
"""MLX aborts when these caches thrash, as they do at their own defaults while shapes vary."""


class BlasReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether MLX's CPU matrix products run on OpenBLAS, and what to do if not."""

    status: Literal["not needed", "loaded", "not found", "too late"]
    advice: str | None = None


class CompileReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether `mx.compile` works here, and what to do if not."""

    enabled: bool
    advice: str | None = None


class BackendFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The device MLX uses. Memory in bytes; free is what could be taken now."""

    kind: Kind
    device_name: str
    memory_bytes: int
    free_memory_bytes: int
    weight_dtype: WeightDtype
    versions: dict[str, str]


class BackendReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `prepare` did and found."""

    facts: BackendFacts
    blas: BlasReport
    compile: CompileReport
    environment: dict[str, str]


def prepare(environ: MutableMapping[str, str] = os.environ) -> BackendReport:
    """Make MLX ready, in the only order that works: environment, BLAS, import, compiler.

    Call it first in every process that computes, on its main thread; a second call changes
    nothing. Raises ConfigError when MLX has no backend here.
    """
    environment = set_defaults(CUDA_DEFAULTS, environ) if _cuda_installed() else {}
    blas = preload_blas()
    return BackendReport(
        facts=backend_facts(), blas=blas, compile=prepare_compile(), environment=environment
    )


def preload_blas() -> BlasReport:
    """Load OpenBLAS for the whole process, where MLX's CPU backend on Linux will use it.

    Does not import mlx. Takes ~10 ms; a second call finds the library loaded.
    """
    if sys.platform != "linux" or _cuda_installed():
        return BlasReport(status="not needed")
    if "mlx.core" in sys.modules and not _load_openblas(os.RTLD_NOLOAD):
        return BlasReport(status="too late", advice="call prepare() before the first import of mlx")
    if _load_openblas(0):
        return BlasReport(status="loaded")
    return BlasReport(status="not found", advice=OPENBLAS_ADVICE)


def backend_facts() -> BackendFacts:
    """Ask MLX for its device. Imports mlx; raises ConfigError when it has no backend here."""
    try:
        import mlx.core as mx
    except ImportError as error:
        raise ConfigError(
            f"mlx cannot be loaded ({error}): pip install 'mlxspec[cpu]', or [cuda12] or [cuda13] "
            "for an nvidia gpu"
        ) from None
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    kind: Kind = ("metal" if mx.metal.is_available() else "cuda") if on_gpu else "cpu"
    info = mx.device_info()
    total, free = _device_memory(kind, info, mx.get_active_memory())
    return BackendFacts(
        kind=kind,
        device_name=str(info.get("device_name", kind)),
        memory_bytes=total,
        free_memory_bytes=free,
        weight_dtype="float32" if kind == "cpu" else "bfloat16",
        versions={
            "mlxspec": __version__,
            "mlx": version("mlx"),
            "mlx-lm": version("mlx-lm"),
            "python": ".".join(map(str, sys.version_info[:3])),
        },
    )


def prepare_compile() -> CompileReport:
    """Switch `mx.compile` off where it would fail: MLX on CPU calls g++ at run time.

    Imports mlx. Without g++ compiled functions run eagerly, with the same results.
    """
    import mlx.core as mx

    if mx.default_device().type == mx.DeviceType.gpu or shutil.which("g++"):
        return CompileReport(enabled=True)
    mx.disable_compile()
    return CompileReport(enabled=False, advice=COMPILER_ADVICE)


def _device_memory(kind: Kind, info: dict[str, str | int], active: int) -> tuple[int, int]:
    """Bytes in all and free. Metal shares the host's memory up to a recommended working set."""
    host = host_memory()
    if kind == "cpu":
        return host.total, host.free
    if kind == "metal":
        working_set = int(info.get("max_recommended_working_set_size", host.total))
        return int(info.get("memory_size", host.total)), max(0, working_set - active)
    total = int(info.get("total_memory", 0))
    return total, int(info.get("free_memory", max(0, total - active)))


def _load_openblas(flags: int) -> bool:
    try:
        ctypes.CDLL(OPENBLAS, mode=ctypes.RTLD_GLOBAL | flags)
    except OSError:
        return False
    return True


def _cuda_installed() -> bool:
    return any(_installed(name) for name in ("mlx-cuda-12", "mlx-cuda-13"))


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
