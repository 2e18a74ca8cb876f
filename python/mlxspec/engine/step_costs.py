"""What steps of the configured models cost: measured once, remembered, kept for other servers."""

from pathlib import Path

import mlx.core as mx

from mlxspec.config import Config, cache_dir
from mlxspec.engine.model_facts import DeviceShape
from mlxspec.model.backend import backend_facts
from mlxspec.model.forward import CompiledForward
from mlxspec.speculative.calibrate import StepCosts, measure, measure_plain, still_holds
from mlxspec.speculative.cost_store import CostStore, Measured, cost_name
from mlxspec.speculative.encoder_target import EncoderTarget
from mlxspec.speculative.plain_target import PlainTarget
from mlxspec.speculative.step import AnyTarget, Target

CALIBRATED_SLOTS = 8
"""Rows of the steps that are timed."""


class StepCostBook:
    """For the thread that loads models."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._measured: dict[int, Measured] = {}

    def of(
        self,
        index: int,
        folder: Path,
        target: AnyTarget,
        shape: DeviceShape,
        variant: object = None,
    ) -> StepCosts:
        """What steps of a model, or forwards of a draft model, cost.

        They are measured by its first load and remembered for the next ones. index: as the
        scheduler knows it. variant: what else the costs depend on: bits of KV, layers left out.
        `target` runs it, and is left as it was measured, traced or not.
        """
        if index not in self._measured:
            layout = f"{shape} {variant}"
            self._measured[index] = self._find(folder, target, shape, layout)
            mx.clear_cache()
        elif self._measured[index].compiled and isinstance(target, Target):
            target.network.compiled = CompiledForward(target.network, padded=shape.padded)
        return self._measured[index].costs

    def _find(self, folder: Path, target: AnyTarget, shape: DeviceShape, layout: str) -> Measured:
        """What an earlier server measured, if that still holds; else measured now, and kept."""
        if isinstance(target, PlainTarget | EncoderTarget):
            return Measured(measure_plain(target, max_tokens=64), compiled=False)
        if not self._config.speculation.keep_costs:
            return _measured(target, shape)
        name = cost_name(backend_facts(), [folder], layout)
        store = CostStore(cache_dir() / "costs")
        known = store.read(name)
        if known is not None and _still_holds(target, known, shape):
            return known
        measured = _measured(target, shape)
        store.write(name, measured)
        return measured


def _measured(target: Target, shape: DeviceShape) -> Measured:
    costs = measure(target, padded=shape.padded, slots=CALIBRATED_SLOTS, max_tokens=64)
    return Measured(costs, target.network.compiled is not None)


def _still_holds(target: Target, known: Measured, shape: DeviceShape) -> bool:
    """Whether a step takes what it took; the network is left as it was measured, traced or not."""
    network = target.network
    network.compiled = CompiledForward(network, padded=shape.padded) if known.compiled else None
    holds = still_holds(target, known.costs, padded=shape.padded, slots=CALIBRATED_SLOTS)
    network.compiled = network.compiled if holds else None
    return holds
