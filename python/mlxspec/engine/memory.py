"""How the memory of the device is shared: a budget for all models, and each model's part of it."""

from pathlib import Path

import structlog
from msgspec import Struct

from mlxspec.config import Config, ModelConfig
from mlxspec.errors import ModelImportError
from mlxspec.model.backend import BackendFacts
from mlxspec.model.weights import weight_bytes

log = structlog.get_logger()

SHARE_OF_FREE = 0.8
"""Of the memory that is free at start, models may hold so much: room for activations stays."""

LEAST_KV_BYTES = 64 << 20


class ModelPolicy(Struct, frozen=True, kw_only=True):
    """One model's part: bytes it needs, of which `kv_bytes` for KV, and when it comes and goes."""

    need: int
    kv_bytes: int
    pinned: bool
    keep_alive: float | None
    preload: bool


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """Bytes for all models together, and each model's part."""

    budget: int
    models: list[ModelPolicy]


def plan_memory(config: Config, device: BackendFacts) -> MemoryPlan:
    """Share the memory of the device; reads the headers of all models' files."""
    budget = config.memory.budget_bytes or int(device.free_memory_bytes * SHARE_OF_FREE)
    weights = [_weights(config, model, as_float32=device.kind == "cpu") for model in config.models]
    kv_bytes = config.kv.memory_bytes or default_kv_bytes(budget, weights)
    share = kv_bytes // max(1, len(weights))
    models: list[ModelPolicy] = []
    room = budget
    for model, size in zip(config.models, weights, strict=True):
        preload = model.preload and size + share <= room
        room -= (size + share) * preload
        models.append(
            ModelPolicy(
                need=size + share,
                kv_bytes=share,
                pinned=model.pinned,
                keep_alive=model.keep_alive_seconds,
                preload=preload,
            )
        )
    return MemoryPlan(budget=budget, models=models)


def default_kv_bytes(budget: int, weights: list[int]) -> int:
    """Half of what the weights leave: of all models if they fit together, else of the largest."""
    together = sum(weights)
    resident = together if together <= budget else max(weights, default=0)
    return max(LEAST_KV_BYTES * len(weights), (budget - resident) // 2)


def model_folders(config: Config, model: ModelConfig) -> list[Path]:
    """Where a model lies, and then its draft model, if it is to have one."""
    drafts = [model.draft_model] if model.draft_model and config.speculation.enabled else []
    return [Path(model.source), *map(Path, drafts)]


def _weights(config: Config, model: ModelConfig, *, as_float32: bool) -> int:
    """Bytes of the weights; 0 for a folder that cannot be read: its load will say why."""
    folders = model_folders(config, model)
    try:
        return sum(weight_bytes(folder, as_float32=as_float32) for folder in folders)
    except ModelImportError as error:
        log.warning("model folder cannot be read", model=model.id, error=error.message)
        return 0
