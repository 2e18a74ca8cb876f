"""How much of what it may hold this process holds, by what is tighter: the host or the device."""

import mlx.core as mx

from mlxspec.model.backend import BackendFacts
from mlxspec.model.footprint import process_bytes
from mlxspec.model.host_memory import host_memory


class MemoryGauge:
    """Reads in a fraction of a millisecond; any thread."""

    def __init__(self, device: BackendFacts, limit: int | None) -> None:
        """limit: bytes of the host's memory for this process; None: all, or the container's."""
        self._host_limit = limit or host_memory().total
        # MLX's arrays lie in the process's own memory but on CUDA.
        self._apart = device.kind == "cuda"
        self._device_limit = device.memory_bytes if self._apart else self._host_limit

    def share(self) -> float:
        """1.0 is all; what MLX keeps for later counts."""
        by_mlx = mx.get_active_memory() + mx.get_cache_memory()
        in_process = process_bytes() or 0
        return max(in_process / self._host_limit, by_mlx / max(1, self._device_limit))
