"""The engine thread's hands: loads models and runs steps when the scheduler says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import structlog
from msgspec import Struct

from mlxspec._scheduler import BLOCK_TOKENS, Scheduler
from mlxspec.config import Config, ModelConfig
from mlxspec.errors import MlxspecError
from mlxspec.model.backend import BackendFacts, backend_facts
from mlxspec.model.device_probe import device_works
from mlxspec.model.fingerprint import fingerprint
from mlxspec.model.forward import Network
from mlxspec.model.kv import KVStore
from mlxspec.model.load import LoadedModel, load
from mlxspec.speculative.calibrate import StepCosts, measure
from mlxspec.speculative.constrain import Constraints
from mlxspec.speculative.draft_model import DraftModel
from mlxspec.speculative.plan import Ints, apply_kv_ops, unpack
from mlxspec.speculative.step import Target, run_step
from mlxspec.speculative.synthetic import force_acceptance

log = structlog.get_logger()


class DeviceShape(NamedTuple):
    """How steps are laid out on a device (docs/steps.md)."""

    padded: bool
    slab_slots: int
    step_tokens: int
    prefill_chunk: int
    view_step: int


DEVICE_SHAPES = {
    # Every token costs: no padding, attention over just the positions in use.
    "cpu": DeviceShape(False, 16, 256, 96, 32),
    # Launches cost more than tokens, and new shapes most: few shapes, padded to whole rows.
    "cuda": DeviceShape(True, 32, 2048, 256, 1 << 20),
    "metal": DeviceShape(True, 16, 1024, 128, 1 << 20),
}


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What the scheduler needs to know of a loaded model: `ModelShape` in Rust."""

    max_context: int
    total_blocks: int
    slab_slots: int
    step_tokens: int
    prefill_chunk: int
    view_step: int
    padded: bool
    step_cost: list[tuple[int, float]]
    rect_cost: float
    fingerprint: str
    draft_model: StepCosts | None = None

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class Runner:
    """Called by the scheduler on the engine thread, and by nobody else.

    on_state(index, state, context_length, error) tells where a model stands, from this thread.
    """

    def __init__(
        self, config: Config, on_state: Callable[[int, str, int | None, str | None], None]
    ) -> None:
        self._config = config
        self._on_state = on_state
        self.device_lost = False
        """Set for good when a step has failed and the device computes nothing any more."""
        self._targets: dict[int, Target] = {}

    def load(self, model: int) -> ModelFacts:
        """Bring a model into memory and measure it; raises what stood in the way."""
        name = self._config.models[model].id
        self._on_state(model, "loading", None, None)
        try:
            facts = self._load(model)
        except Exception as error:
            shown = error.message if isinstance(error, MlxspecError) else "see the server's log"
            log.exception("model failed to load", model=name)
            self._on_state(model, "failed", None, shown)
            raise
        self._on_state(model, "resident", facts.max_context, None)
        log.info(
            "model ready",
            model=name,
            context=facts.max_context,
            kv_tokens=facts.total_blocks * BLOCK_TOKENS,
            plain_step_ms=round(facts.step_cost[0][1], 2),
            compiled=self._targets[model].network.compiled is not None,
        )
        return facts

    def _load(self, model: int) -> ModelFacts:
        wanted = self._config.models[model]
        device = backend_facts()
        dtype = mx.float32 if device.kind == "cpu" else None
        loaded = load(Path(wanted.source), dtype)
        drafter = self._load_draft_model(wanted, loaded, dtype)
        store = KVStore([*loaded.layers, *(drafter.layers if drafter else ())])
        target = Target(Network(loaded.model, loaded.windows), store, drafter)
        shape = DEVICE_SHAPES[device.kind]
        costs = measure(target, padded=shape.padded, slots=8, max_tokens=64)
        draft_costs = None
        if drafter is not None:
            alone = Target(drafter.network, store)
            draft_costs = measure(alone, padded=shape.padded, slots=8, max_tokens=64)
        mx.clear_cache()
        self._targets[model] = target
        scheduler = self._config.scheduler
        return ModelFacts(
            max_context=min(wanted.context_length or loaded.context_length, loaded.context_length),
            total_blocks=self._kv_bytes() // (target.store.bytes_per_token * BLOCK_TOKENS),
            slab_slots=min(shape.slab_slots, scheduler.max_running),
            step_tokens=scheduler.step_tokens or shape.step_tokens,
            prefill_chunk=scheduler.prefill_chunk or shape.prefill_chunk,
            view_step=shape.view_step,
            padded=shape.padded,
            step_cost=costs.step_cost,
            rect_cost=costs.rect_cost,
            fingerprint=fingerprint(Path(wanted.source), wanted.id),
            draft_model=draft_costs,
        )

    def _load_draft_model(
        self, wanted: ModelConfig, target: LoadedModel, dtype: mx.Dtype | None
    ) -> DraftModel | None:
        """The model's draft model, its layers behind the target's."""
        if wanted.draft_model is None or not self._config.speculation.enabled:
            return None
        loaded = load(Path(wanted.draft_model), dtype)
        network = Network(loaded.model, loaded.windows, first_layer=len(target.layers))
        return DraftModel(network, loaded.layers, loaded.vocab, target.vocab)

    def _kv_bytes(self) -> int:
        """KV memory of one model: its share of the budget, or of half of what is free now."""
        budget = self._config.kv.memory_bytes or default_kv_bytes(backend_facts())
        return budget // len(self._config.models)

    def constraints(self, model: int) -> Constraints | None:
        """The grammars of a model's requests; None until it is loaded. Any thread."""
        target = self._targets.get(model)
        return None if target is None else target.constraints

    def num_slabs(self, model: int) -> int:
        """KV slabs that exist for a loaded model: while it is idle, those of cached rows."""
        return len(self._targets[model].store.slabs)

    def serve(self, scheduler: Scheduler) -> None:
        """The engine thread's life: run until the scheduler is closed and idle.

        What MLX keeps for a thread goes here: freed by the thread's own end it would need the
        interpreter, which may have ended by then, and the process would abort.
        """
        try:
            scheduler.run(self)
        finally:
            mx.clear_streams()

    def step(self, packed: bytes) -> Ints:
        """Run one packed step; returns kept drafts and tokens, (rows + sampled,) uint32."""
        plan = unpack(packed)
        target = self._targets[plan.model]
        try:
            apply_kv_ops(target.store, plan.kv_ops)
            answer = run_step(target, plan) if plan.rects else None
        except Exception:
            log.exception("step failed", tokens=len(plan.tokens), rows=len(plan.samplers.first))
            self.device_lost = not device_works()
            raise
        if answer is None:
            return np.zeros(0, np.uint32)
        rate = self._config.speculation.synthetic_acceptance
        told = np.asarray(answer)
        return told if rate is None else force_acceptance(told, plan, rate)


def default_kv_bytes(device: BackendFacts) -> int:
    """Half of the memory that is free once the weights are in: room for activations stays."""
    return max(64 << 20, device.free_memory_bytes // 2)
