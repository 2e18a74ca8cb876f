"""The engine thread's hands: loads models and runs steps when the scheduler says so."""

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
import structlog

from mlxspec._scheduler import BLOCK_TOKENS, SEGMENT_TOKENS, Scheduler
from mlxspec.config import Config
from mlxspec.engine.draft_models import DraftModels
from mlxspec.engine.loader import Load, Loader
from mlxspec.engine.memory import DrafterPart, MemoryPlan, draft_folder, drafts_by_itself
from mlxspec.engine.model_facts import DEVICE_SHAPES, ModelFacts
from mlxspec.engine.self_draft import SelfDrafts
from mlxspec.engine.step_costs import StepCostBook
from mlxspec.errors import KVFileError, LoadCancelledError, MlxspecError
from mlxspec.model.backend import backend_facts
from mlxspec.model.device_probe import device_works
from mlxspec.model.encoder import Encoder
from mlxspec.model.fingerprint import fingerprint
from mlxspec.model.folder_check import check_folder
from mlxspec.model.forward import Network
from mlxspec.model.kv import KVStore
from mlxspec.model.kv_file import read_segment, write_segment
from mlxspec.model.kv_form import LayerShape, quantised
from mlxspec.model.kv_key import kv_key, weights_digest
from mlxspec.model.load import LoadedModel, OpenedModel, adopt, kv_layers, open_model
from mlxspec.model.memory_gauge import MemoryGauge
from mlxspec.speculative.constrain import Constraints
from mlxspec.speculative.encoder_target import EncoderTarget
from mlxspec.speculative.harvest import Harvests
from mlxspec.speculative.plain_target import PlainTarget
from mlxspec.speculative.plan import Ints, apply_kv_ops, unpack
from mlxspec.speculative.step import AnyTarget, Target, run_step
from mlxspec.speculative.synthetic import force_acceptance

log = structlog.get_logger()

LONGER_ROW = 512
"""Positions by which a row may be longer than its text, at most."""


class LoadListener(Protocol):
    """Who hears how a load ended: the scheduler. Any thread."""

    def loaded(self, model: int, facts: Any, num_bytes: int) -> None: ...
    def drafter_loaded(
        self, drafter: int, costs: tuple[list[tuple[int, float]], float], num_bytes: int
    ) -> None: ...
    def load_resized(self, model: int, num_bytes: int) -> None: ...
    def load_failed(self, model: int, message: str) -> None: ...
    def load_cancelled(self, model: int) -> None: ...


class Runner:
    """Called by the scheduler on the engine thread. Loads go on in a thread of their own.

    watch(model, done, total) tells how a load gets on, in bytes, from that thread.
    """

    def __init__(
        self,
        config: Config,
        plan: MemoryPlan,
        listener: LoadListener,
        watch: Callable[[int, int, int], None] = lambda *_: None,
    ) -> None:
        self._config = config
        self._plan = plan
        self._listener = listener
        self._watch = watch
        self.device_lost = False
        """Set for good when a step has failed and the device computes nothing any more."""
        self._targets: dict[int, AnyTarget] = {}
        self._constraints = [Constraints() for _ in config.models]
        self.harvests = Harvests()
        """What requests of all models gather of their prompts. Any thread, as it says."""
        self._costs = StepCostBook(config)
        shape = DEVICE_SHAPES[backend_facts().kind]
        self._drafters = DraftModels(self._costs, shape)
        self.self_drafts = SelfDrafts(shape)
        """What layers of the models that are to draft with their own were tried; any thread."""
        self._own_layers: dict[int, LoadedModel] = {}
        self._vocabs: dict[int, int] = {}
        self._weights_digests: dict[int, str] = {}
        self._context_lengths: dict[int, int] = {}
        self._shows_hidden: dict[int, bool] = {}
        self._errors: dict[int, str] = {}
        self._gauge = MemoryGauge(backend_facts(), config.memory.limit_bytes)
        self._loader = Loader(self._bring_in)

    def load(self, model: int, num_bytes: int) -> None:
        """Begin to bring a model into memory; `num_bytes` are reserved for it, KV included."""
        self._loader.begin(model, num_bytes)

    def cancel_load(self, model: int) -> None:
        """Break a load off, if it has not ended."""
        self._loader.cancel(model)

    def evict(self, model: int) -> None:
        """Free all memory of a model, or of a draft model."""
        if self._plan.drafter(model) is None:
            del self._targets[model]
            self._own_layers.pop(model, None)
        else:
            self._detach(model)
        free_memory()
        log.info("model evicted", model=self._name(model), active_bytes=mx.get_active_memory())

    def _attach(self, model: int, target: AnyTarget) -> None:
        """Give a target its drafter, which the scheduler says is in memory."""
        at = self._plan.models[model].drafter
        if isinstance(target, Target) and target.drafter is None and at is not None:
            index = len(self._plan.models) + at
            self._drafters.attach(index, model, target, self._vocabs[model])

    def _detach(self, drafter: int) -> None:
        """Take a draft model from all targets that share it, and forget it."""
        for model, target in self._targets.items():
            at = self._plan.models[model].drafter
            if isinstance(target, Target) and at == drafter - len(self._plan.models):
                target.drafter = None
        self._drafters.drop(drafter)

    def memory_share(self) -> float:
        """What this process holds of what it may: 1.0 is all."""
        return self._gauge.share()

    def trim(self) -> None:
        """Give back what MLX keeps of freed memory."""
        mx.synchronize()
        mx.clear_cache()

    def close(self) -> None:
        """Break off loads and wait for their thread; for the end of the process, blocks."""
        self._loader.close()

    def _name(self, model: int) -> str:
        part = self._plan.drafter(model)
        return self._config.models[model].id if part is None else part.name

    def _bring_in(self, load: Load) -> None:
        """Load, and tell how it ended. Loader thread."""
        part = self._plan.drafter(load.model)
        try:
            tell = self._load(load) if part is None else self._load_drafter(load, part)
        except LoadCancelledError:
            free_memory()
            self._listener.load_cancelled(load.model)
        except _NeedsMoreError as error:
            free_memory()
            self._listener.load_resized(load.model, error.num_bytes)
        except Exception as error:
            log.exception("model failed to load", model=self._name(load.model))
            shown = error.message if isinstance(error, MlxspecError) else "see the server's log"
            del error
            free_memory()
            self._errors[load.model] = shown
            self._listener.load_failed(load.model, shown)
        else:
            self._errors.pop(load.model, None)
            tell()

    def _load_drafter(self, load: Load, part: DrafterPart) -> Callable[[], None]:
        """Load a draft model; returns what tells the scheduler of it."""
        load.check()
        started = time.perf_counter()
        if part.layers_of is not None:
            return self._load_own_layers(load.model, part, part.layers_of)
        opened = _open(part.folder)
        if opened.num_bytes > load.num_bytes:
            raise _NeedsMoreError(opened.num_bytes)
        loaded, targets = self._adopt(load, opened), self._drafted_by(load.model)
        costs = self._drafters.take_in(load.model, part, loaded, targets)
        log.info(
            "draft model ready",
            model=part.name,
            seconds=round(time.perf_counter() - started, 2),
            active_bytes=mx.get_active_memory(),
        )
        return lambda: self._listener.drafter_loaded(load.model, costs, opened.num_bytes)

    def _load_own_layers(self, drafter: int, part: DrafterPart, model: int) -> Callable[[], None]:
        """The same for layers of a target, which are in memory as long as it is."""
        own = self._own_layers.get(model)
        if own is None:
            raise LoadCancelledError("the model that it is made of has left")
        told = self.self_drafts.of(model)
        costs = self._drafters.take_in(drafter, part, own, {}, variant=told and told.kept)
        return lambda: self._listener.drafter_loaded(drafter, costs, 0)

    def _drafted_by(self, drafter: int) -> dict[int, Path]:
        """The folders of the models that this one is to draft for."""
        at = drafter - len(self._plan.models)
        models = enumerate(zip(self._plan.models, self._config.models, strict=True))
        return {it: Path(model.source) for it, (plan, model) in models if plan.drafter == at}

    def _load(self, load: Load) -> Callable[[], None]:
        """Load a model; returns what tells the scheduler of it."""
        load.check()
        started = time.perf_counter()
        wanted = self._config.models[load.model]
        opened = _open(Path(wanted.source))
        num_bytes = self._plan.models[load.model].kv_bytes + opened.num_bytes
        if num_bytes > load.num_bytes:
            raise _NeedsMoreError(num_bytes)
        loaded = self._adopt(load, opened)
        layers = quantised(loaded.layers, wanted.kv_bits)
        draft_layers = self._draft_layers(load.model, loaded)
        constraints = self._constraints[load.model]
        loaded = loaded._replace(layers=layers)
        target = _target(loaded, draft_layers, constraints, self.harvests)
        if isinstance(target, Target):
            target.rejection = self._config.speculation.acceptance == "rejection"
        facts = self._facts(load, target, loaded.context_length)
        self._targets[load.model] = target
        self._vocabs[load.model] = loaded.vocab
        self._context_lengths[load.model] = facts.max_context
        self._shows_hidden[load.model] = target.shows_hidden
        log.info(
            "model ready",
            model=self._name(load.model),
            seconds=round(time.perf_counter() - started, 2),
            context=facts.max_context,
            kv_tokens=facts.total_blocks * BLOCK_TOKENS,
            plain_step_ms=round(facts.step_cost[0][1], 2),
            compiled=isinstance(target, Target) and target.network.compiled is not None,
            speculates=isinstance(target, Target) and self._config.speculation.enabled,
            active_bytes=mx.get_active_memory(),
        )
        return lambda: self._listener.loaded(load.model, facts, num_bytes)

    def _draft_layers(self, model: int, loaded: LoadedModel) -> list[LayerShape]:
        """KV layers that a target's rows have for its draft model, there or not; none without."""
        wanted = self._config.models[model]
        if drafts_by_itself(self._config, wanted):
            return self._choose_own_layers(model, loaded)
        folder = draft_folder(self._config, wanted)
        return [] if folder is None else kv_layers(_open(folder))

    def _choose_own_layers(self, model: int, loaded: LoadedModel) -> list[LayerShape]:
        """Those of its layers that draft for it; none where none pays."""
        if loaded.is_plain:
            return []
        wanted, folder = self._config.models[model], Path(self._config.models[model].source)
        layers = quantised(loaded.layers, wanted.kv_bits)
        alone = Target(Network(loaded.model, loaded.windows), KVStore(layers))
        shape = DEVICE_SHAPES[backend_facts().kind]
        costs = self._costs.of(model, folder, alone, shape, wanted.kv_bits)
        own = self.self_drafts.choose(model, folder, loaded, costs)
        if own is None:
            return []
        self._own_layers[model] = own
        return own.layers

    def _adopt(self, load: Load, opened: OpenedModel) -> LoadedModel:
        def progress(_doing: str, done: int, total: int) -> None:
            self._watch(load.model, done, total)
            load.check()

        return adopt(opened.model, opened.context_length, progress)

    def _facts(self, load: Load, target: AnyTarget, context_length: int) -> ModelFacts:
        model = load.model
        wanted, scheduler = self._config.models[model], self._config.scheduler
        shape = DEVICE_SHAPES[backend_facts().kind]
        plain, whole = not isinstance(target, Target), isinstance(target, EncoderTarget)
        max_context = min(wanted.context_length or context_length, context_length)
        step_tokens = scheduler.step_tokens or shape.step_tokens
        prefill_chunk = scheduler.prefill_chunk or shape.prefill_chunk
        if whole:
            step_tokens = prefill_chunk = max(step_tokens, max_context)
        costs = self._costs.of(model, Path(wanted.source), target, shape, wanted.kv_bits)
        return ModelFacts(
            max_context=max_context,
            total_blocks=self._num_blocks(model, target, max_context),
            slab_slots=min(shape.slab_slots, scheduler.max_running),
            step_tokens=step_tokens,
            prefill_chunk=prefill_chunk,
            view_step=shape.view_step,
            padded=shape.padded and not isinstance(target, PlainTarget),
            plain=plain,
            whole=whole,
            step_cost=costs.step_cost,
            rect_cost=costs.rect_cost,
            fingerprint=fingerprint(Path(wanted.source), wanted.id),
            kv_key=self._kv_key(load, target),
            takes_drafter=isinstance(target, Target) and target.takes_drafter,
        )

    def _num_blocks(self, model: int, target: AnyTarget, max_context: int) -> int:
        """Blocks of KV that each instance may hold; for an encoder, which has none, enough."""
        if isinstance(target, EncoderTarget):
            longest_row = max_context + LONGER_ROW
            return self._config.scheduler.max_running * (longest_row // BLOCK_TOKENS)
        share = self._plan.models[model].kv_bytes // self._config.models[model].instances
        return share // (target.store.bytes_per_token * BLOCK_TOKENS)

    def _kv_key(self, load: Load, target: AnyTarget) -> str | None:
        """The key of the model's KV on disk, if any is to be kept there."""
        if self._config.kv.folder is None or not isinstance(target, Target):
            return None
        if load.model not in self._weights_digests:
            folder = Path(self._config.models[load.model].source)
            self._weights_digests[load.model] = weights_digest(folder, load.check)
        layers = target.store.layers[target.network.layers]
        return kv_key(self._weights_digests[load.model], layers)

    def constraints(self, model: int) -> Constraints:
        """The grammars of a model's requests. Any thread."""
        return self._constraints[model]

    def context_length(self, model: int) -> int | None:
        """Longest context of a model that was loaded once; any thread."""
        return self._context_lengths.get(model)

    def shows_hidden(self, model: int) -> bool:
        """Whether a model was loaded once, and its hidden states can be read; any thread."""
        return self._shows_hidden.get(model, False)

    def load_error(self, model: int) -> str | None:
        """Why the model's last load failed, if it did; any thread."""
        return self._errors.get(model)

    def num_slabs(self, model: int) -> int:
        """KV slabs that exist for a model: while it is idle, those of cached rows."""
        target = self._targets.get(model)
        return 0 if target is None else len(target.store.slabs)

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
        if plan.draft is not None:
            self._attach(plan.model, target)
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
        if rate is not None:
            told = force_acceptance(told, plan, rate)
        return np.concatenate([told, target.constraints.forced(plan)])

    def _rows_of(self, model: int) -> Target:
        """A model with a `kv_key`: its KV lies in rows."""
        target = self._targets[model]
        assert isinstance(target, Target)
        return target

    def save_kv(self, model: int, slab: int, slot: int, start: int, file: Path) -> int:
        """Write a segment of a row of the target to a file; returns its bytes, or raises."""
        target = self._rows_of(model)
        layers, stop = target.network.layers, start + SEGMENT_TOKENS
        try:
            return write_segment(file, target.store.piece((slab, slot), start, stop, layers))
        except Exception as error:
            log.error("kv is kept on disk no more", folder=str(file.parent), error=str(error))
            raise

    def read_kv(  # noqa: PLR0917 - as the scheduler calls it
        self, model: int, slab: int, slot: int, start: int, known: int, file: Path
    ) -> bool:
        """Read a segment, but for its first `known` positions, into a row; False if unusable."""
        target = self._rows_of(model)
        row, layers = (slab, slot), target.network.layers
        try:
            forms = target.store.piece_forms(slab, SEGMENT_TOKENS, layers)
            piece = [array[:, known:] for array in read_segment(file, forms)]
        except (KVFileError, OSError) as error:
            log.warning("kv on disk is dropped", error=str(error))
            return False
        target.store.fill(row, start + known, layers, piece)
        return True


def _open(folder: Path) -> OpenedModel:
    """A checked folder's model, its weights still on disk."""
    check_folder(folder)
    return open_model(folder, mx.float32 if backend_facts().kind == "cpu" else None)


def _target(
    loaded: LoadedModel,
    draft_layers: list[LayerShape],
    constraints: Constraints,
    harvests: Harvests,
) -> AnyTarget:
    """The model with its rows, which have layers for its draft model behind its own."""
    if isinstance(loaded.model, Encoder):
        return EncoderTarget(loaded.model, harvests)
    if loaded.is_plain:
        return PlainTarget(loaded.model, loaded.vocab, constraints, harvests)
    store = KVStore([*loaded.layers, *draft_layers])
    return Target(Network(loaded.model, loaded.windows), store, None, constraints, harvests)


class _NeedsMoreError(Exception):
    """The weights take more than was reserved; nothing has been read."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.num_bytes = num_bytes


def free_memory() -> None:
    """Give back what nobody refers to any more, also in cycles, and MLX's cache of it."""
    gc.collect()
    mx.clear_cache()
