"""Draft models in memory, each loaded once for all targets that share it."""

from typing import NamedTuple

from mlxspec.engine.memory import DrafterPart
from mlxspec.engine.model_facts import DeviceShape
from mlxspec.engine.step_costs import StepCostBook
from mlxspec.errors import ModelImportError
from mlxspec.model.forward import CompiledForward, Network
from mlxspec.model.kv import KVStore
from mlxspec.model.load import LoadedModel
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.draft_model import DraftModel
from mlxspec.speculative.step import Target


class _Resident(NamedTuple):
    loaded: LoadedModel
    compiled: bool


class DraftModels:
    """By the scheduler's index. `take_in` is for the loader thread, the rest for the engine's: the
    scheduler orders nothing else of a drafter while it is loaded.
    """

    def __init__(self, costs: StepCostBook, shape: DeviceShape) -> None:
        self._costs = costs
        self._shape = shape
        self._resident: dict[int, _Resident] = {}

    def take_in(self, index: int, part: DrafterPart, loaded: LoadedModel) -> StepCosts:
        """Keep a model that was read, and tell what its forwards cost."""
        if loaded.is_plain:
            raise ModelImportError(f"{part.name} cannot draft: its state does not lie in rows")
        alone = Target(Network(loaded.model, loaded.windows), KVStore(loaded.layers))
        costs = self._costs.of(index, part.folder, alone, self._shape)
        self._resident[index] = _Resident(loaded, alone.network.compiled is not None)
        return costs

    def attach(self, index: int, target: Target, vocab: int) -> None:
        """Have it draft for a target, in whose rows its layers follow the target's own.

        vocab: size of the target's logits.
        """
        loaded, compiled = self._resident[index]
        network = Network(loaded.model, loaded.windows, first_layer=len(target.network.windows))
        if compiled:
            network.compiled = CompiledForward(network, padded=self._shape.padded)
        target.drafter = DraftModel(network, loaded.layers, loaded.vocab, vocab)

    def drop(self, index: int) -> None:
        """Forget it; targets must have been detached."""
        del self._resident[index]
