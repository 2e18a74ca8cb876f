"""Draft models in memory, each loaded once for all targets that share it."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mlxspec.engine.dictionary import dictionary
from mlxspec.engine.memory import DrafterPart
from mlxspec.engine.model_facts import DeviceShape
from mlxspec.engine.step_costs import StepCostBook
from mlxspec.errors import ModelImportError
from mlxspec.model.forward import CompiledForward, Network
from mlxspec.model.kv import KVStore
from mlxspec.model.load import LoadedModel
from mlxspec.model.vocabulary import Dictionary
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.draft_model import DraftModel
from mlxspec.speculative.step import Target
from mlxspec.speculative.words import SameWords, TranslatedWords, Words


class _Resident(NamedTuple):
    """dictionaries: by the targets that have other tokens."""

    loaded: LoadedModel
    compiled: bool
    dictionaries: dict[int, Dictionary]


class DraftModels:
    """By the scheduler's index. `take_in` is for the loader thread, the rest for the engine's: the
    scheduler orders nothing else of a drafter while it is loaded.
    """

    def __init__(self, costs: StepCostBook, shape: DeviceShape) -> None:
        self._costs = costs
        self._shape = shape
        self._resident: dict[int, _Resident] = {}

    def take_in(
        self,
        index: int,
        part: DrafterPart,
        loaded: LoadedModel,
        targets: Mapping[int, Path],
        variant: object = None,
    ) -> StepCosts:
        """Keep a model that was read, and tell what its forwards cost.

        targets: the folders of all models that it drafts for. variant: see `StepCostBook.of`.
        """
        if loaded.is_plain:
            raise ModelImportError(f"{part.name} cannot draft: its state does not lie in rows")
        found = {model: dictionary(folder, part.folder) for model, folder in targets.items()}
        dictionaries = {model: it for model, it in found.items() if it is not None}
        alone = Target(Network(loaded.model, loaded.windows), KVStore(loaded.layers))
        costs = self._costs.of(index, part.folder, alone, self._shape, variant)
        compiled = alone.network.compiled is not None
        self._resident[index] = _Resident(loaded, compiled, dictionaries)
        return costs

    def attach(self, index: int, model: int, target: Target, vocab: int) -> None:
        """Have it draft for a target, in whose rows its layers follow the target's own.

        model: the target as the scheduler knows it; vocab: size of its logits.
        """
        loaded, compiled, dictionaries = self._resident[index]
        network = Network(loaded.model, loaded.windows, first_layer=len(target.network.windows))
        if compiled:
            network.compiled = CompiledForward(network, padded=self._shape.padded)
        words: Words = SameWords(loaded.vocab, vocab)
        if (foreign := dictionaries.get(model)) is not None:
            words = TranslatedWords(foreign, loaded.vocab, vocab)
        target.drafter = DraftModel(network, loaded.layers, words)

    def drop(self, index: int) -> None:
        """Forget it; targets must have been detached."""
        del self._resident[index]
