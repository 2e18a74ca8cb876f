"""How the memory of the device is shared: a budget for all models, and each model's part of it."""

from pathlib import Path

import structlog
from msgspec import Struct

from mlxspec.config import Config
from mlxspec.errors import ModelImportError
from mlxspec.model.backend import BackendFacts
from mlxspec.model.encoder_folder import is_encoder
from mlxspec.model.weights import weight_bytes
from mlxspec.model_tables import AUTO, Balance, ModelConfig

log = structlog.get_logger()

SHARE_OF_FREE = 0.8
"""Of the memory that is free at start, models may hold so much: room for activations stays."""

LEAST_KV_BYTES = 64 << 20


class ModelPolicy(Struct, frozen=True, kw_only=True):
    """One model's part: bytes it needs, of which `kv_bytes` for KV, and when it comes and goes.

    drafter: who drafts for it, as an index of the plan's drafters. The rest is its configuration's.
    """

    need: int
    kv_bytes: int
    pinned: bool
    keep_alive: float | None
    preload: bool
    drafter: int | None
    weight: float
    instances: int
    balance: Balance


class DrafterPart(Struct, frozen=True, kw_only=True):
    """A draft model's part, however many models share it: where it lies, and bytes it needs.

    layers_of: the model of the plan that it is made of, if it is layers of one; then it needs none.
    """

    name: str
    folder: Path
    need: int
    layers_of: int | None = None


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """Bytes for all models together, and the parts of each model and each draft model."""

    budget: int
    models: list[ModelPolicy]
    drafters: list[DrafterPart]
    limits: list[tuple[list[int], int]]
    """Models by index, and how many requests of them together run at once."""

    def drafter(self, index: int) -> DrafterPart | None:
        """The draft model that the scheduler knows by this index; None for a target's."""
        return self.drafters[index - len(self.models)] if index >= len(self.models) else None


def plan_memory(config: Config, device: BackendFacts) -> MemoryPlan:
    """Share the memory of the device; reads the headers of all models' files."""
    budget = config.memory.budget_bytes or int(device.free_memory_bytes * SHARE_OF_FREE)
    cpu = device.kind == "cpu"
    weights = [_weights(Path(model.source), as_float32=cpu) for model in config.models]
    drafters = _drafters(config, as_float32=cpu)
    for_drafts = sum(drafter.need for drafter in drafters)
    kv_bytes = config.kv.memory_bytes or default_kv_bytes(budget, weights, for_drafts)
    keeps_kv = [not is_encoder(Path(model.source)) for model in config.models]
    shares = [it.instances * keeps for it, keeps in zip(config.models, keeps_kv, strict=True)]
    models: list[ModelPolicy] = []
    room = budget
    facts = zip(config.models, weights, shares, strict=True)
    for at, (model, size, number) in enumerate(facts):
        share = kv_bytes // max(1, sum(shares)) * number
        preload = model.preload and size + share <= room
        room -= (size + share) * preload
        models.append(
            ModelPolicy(
                need=size + share,
                kv_bytes=share,
                pinned=model.pinned,
                keep_alive=model.keep_alive_seconds,
                preload=preload,
                drafter=_drafter_of(config, at, drafters),
                weight=model.weight,
                instances=model.instances,
                balance=model.balance,
            )
        )
    return MemoryPlan(budget=budget, models=models, drafters=drafters, limits=limits_of(config))


def limits_of(config: Config) -> list[tuple[list[int], int]]:
    """Models and groups that run fewer requests at once than the server lets them."""
    ids = [model.id for model in config.models]
    of_models = [([at], it.max_running) for at, it in enumerate(config.models)]
    groups = config.groups.values()
    of_groups = [([ids.index(id_) for id_ in it.members], it.max_running) for it in groups]
    return [(models, most) for models, most in of_models + of_groups if most is not None]


def _drafters(config: Config, *, as_float32: bool) -> list[DrafterPart]:
    """Models that draft, each once, then those made of their targets' layers."""
    wanted = [draft_folder(config, model) for model in config.models]
    named = {Path(drafter.source): name for name, drafter in config.drafters.items()}
    parts = [
        DrafterPart(
            name=named.get(it, it.name), folder=it, need=_weights(it, as_float32=as_float32)
        )
        for it in dict.fromkeys(wanted)
        if it is not None
    ]
    own = [(at, it) for at, it in enumerate(config.models) if drafts_by_itself(config, it)]
    return parts + [
        DrafterPart(name=f"{it.id}:{AUTO}", folder=Path(it.source), need=0, layers_of=at)
        for at, it in own
    ]


def _drafter_of(config: Config, at: int, drafters: list[DrafterPart]) -> int | None:
    """Who of them drafts for a model, if anybody does."""
    model = config.models[at]
    key: tuple[Path | None, int | None] = (draft_folder(config, model), None)
    if drafts_by_itself(config, model):
        key = (Path(model.source), at)
    keys: list[tuple[Path | None, int | None]] = [(it.folder, it.layers_of) for it in drafters]
    return keys.index(key) if key in keys else None


def default_kv_bytes(budget: int, weights: list[int], for_drafts: int) -> int:
    """Half of what the weights leave: of all models if they fit together, else of the largest.

    for_drafts: bytes of all draft models, which are in memory as far as there is room.
    """
    together = sum(weights) + for_drafts
    resident = together if together <= budget else max(weights, default=0)
    return max(LEAST_KV_BYTES * len(weights), (budget - resident) // 2)


def draft_folder(config: Config, model: ModelConfig) -> Path | None:
    """Where a model's draft model lies, if it is to have one."""
    if model.draft_model is None or model.draft_model == AUTO or not config.speculation.enabled:
        return None
    named = config.drafters.get(model.draft_model)
    return Path(named.source if named else model.draft_model)


def drafts_by_itself(config: Config, model: ModelConfig) -> bool:
    """Whether a model is to draft with layers of its own, if that pays."""
    return model.draft_model == AUTO and config.speculation.enabled


def _weights(folder: Path, *, as_float32: bool) -> int:
    """Bytes of the weights; 0 for a folder that cannot be read: its load will say why."""
    try:
        return weight_bytes(folder, as_float32=as_float32)
    except ModelImportError as error:
        log.warning("model folder cannot be read", folder=str(folder), error=error.message)
        return 0
