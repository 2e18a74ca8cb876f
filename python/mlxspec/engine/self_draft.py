"""Whether some of a target's own layers can draft for it: measured when it is loaded."""

from pathlib import Path

import structlog
from tokenizers import Tokenizer

from mlxspec._scheduler import promised_speedup
from mlxspec.engine.model_facts import DeviceShape
from mlxspec.engine.ordinary_text import ORDINARY_TEXTS
from mlxspec.engine.speculation import LayerTrial, SelfDraftReport
from mlxspec.engine.step_costs import CALIBRATED_SLOTS
from mlxspec.model.forward import Network
from mlxspec.model.kv import KVStore
from mlxspec.model.load import LoadedModel
from mlxspec.model.vocabulary import TOKENIZER
from mlxspec.speculative.calibrate import StepCosts, plain_step_ms
from mlxspec.speculative.layer_skip import of_layers, try_layers
from mlxspec.speculative.step import Target

log = structlog.get_logger()

LEAST_SPEEDUP = 1.05
"""What is promised must be clearly more than nothing."""


class SelfDrafts:
    """By the scheduler's index of the target. For the thread that loads; reports for any thread."""

    def __init__(self, shape: DeviceShape) -> None:
        self._shape = shape
        self._found: dict[int, SelfDraftReport] = {}

    def of(self, model: int) -> SelfDraftReport | None:
        """What was measured, if the model was to draft for itself and was loaded once."""
        return self._found.get(model)

    def choose(
        self, model: int, folder: Path, loaded: LoadedModel, costs: StepCosts
    ) -> LoadedModel | None:
        """The layers to draft with, as a model; None if none pays. Measured by the first load."""
        if model not in self._found:
            self._found[model] = self._measure(folder, loaded, costs)
            told = self._found[model]
            best = max(told.trials, key=lambda it: it.promised_speedup, default=None)
            log.info(
                "layers of the model draft for it" if told.kept else "no layers of it can draft",
                model=folder.name,
                reason=told.reason,
                kept=told.kept and len(told.kept),
                of=told.num_layers,
                agreement=best and round(best.agreement, 3),
                promised_speedup=best and round(best.promised_speedup, 2),
            )
        kept = self._found[model].kept
        return None if kept is None else of_layers(loaded, kept)

    def _measure(self, folder: Path, loaded: LoadedModel, costs: StepCosts) -> SelfDraftReport:
        num_layers = len(loaded.layers)
        if any(loaded.windows):
            reason = "its layers are not all alike, so none can be left out"
            return SelfDraftReport(num_layers=num_layers, kept=None, trials=(), reason=reason)
        try:
            trials = self._trials(folder, loaded, costs)
        except Exception as error:  # noqa: BLE001 - models are many, and this is an aid
            reason = f"it cannot be tried without some: {error!r:.200}"
            return SelfDraftReport(num_layers=num_layers, kept=None, trials=(), reason=reason)
        best = max(trials, key=lambda it: it.promised_speedup)
        pays = best.promised_speedup >= LEAST_SPEEDUP
        reason = "it is promised to pay" if pays else "none pays"
        kept = best.layers if pays else None
        return SelfDraftReport(num_layers=num_layers, kept=kept, trials=trials, reason=reason)

    def _trials(
        self, folder: Path, loaded: LoadedModel, costs: StepCosts
    ) -> tuple[LayerTrial, ...]:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        texts = [tokenizer.encode(it, add_special_tokens=False).ids for it in ORDINARY_TEXTS]
        found = []
        for kept, agreement in try_layers(loaded, texts):
            ms = self._step_ms(of_layers(loaded, kept))
            promised = promised_speedup(
                (costs.step_cost, costs.rect_cost),
                ([(1, ms)], 0.0),
                agreement=agreement,
                padded=self._shape.padded,
            )
            found.append(
                LayerTrial(layers=kept, agreement=agreement, step_ms=ms, promised_speedup=promised)
            )
        return tuple(found)

    def _step_ms(self, drafter: LoadedModel) -> float:
        alone = Target(Network(drafter.model, drafter.windows), KVStore(drafter.layers))
        return plain_step_ms(alone, padded=self._shape.padded, slots=CALIBRATED_SLOTS)
