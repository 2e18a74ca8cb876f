"""What steps of the configured models cost: measured once, remembered, kept for other servers."""

import mlx.core as mx

from mlxspec.config import Config, cache_dir
from mlxspec.engine.memory import model_folders
from mlxspec.engine.model_facts import DeviceShape
from mlxspec.model.backend import backend_facts
from mlxspec.model.forward import CompiledForward
from mlxspec.speculative.calibrate import StepCosts, measure, measure_plain, still_holds
from mlxspec.speculative.cost_store import CostStore, Measured, cost_name
from mlxspec.speculative.plain_target import PlainTarget
from mlxspec.speculative.step import Target

CALIBRATED_SLOTS = 8
"""Rows of the steps that are timed."""


class StepCostBook:
    """For the thread that loads models."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._measured: dict[tuple[int, int], Measured] = {}

    def of(
        self, model: int, network: int, target: Target | PlainTarget, shape: DeviceShape
    ) -> StepCosts:
        """What steps cost: measured by a network's first load, remembered for the next ones.

        network: 0 for the model's own, 1 for its draft model's; `target` runs that one. It is left
        as it was measured, traced or not.
        """
        key = model, network
        if key not in self._measured:
            self._measured[key] = self._find(model, target, shape)
            mx.clear_cache()
        elif self._measured[key].compiled and isinstance(target, Target):
            target.network.compiled = CompiledForward(target.network, padded=shape.padded)
        return self._measured[key].costs

    def _find(self, model: int, target: Target | PlainTarget, shape: DeviceShape) -> Measured:
        """What an earlier server measured, if that still holds; else measured now, and kept."""
        if isinstance(target, PlainTarget):
            return Measured(measure_plain(target, max_tokens=64), compiled=False)
        if not self._config.speculation.keep_costs:
            return _measured(target, shape)
        wanted = self._config.models[model]
        layout = f"{shape} {target.network.layers} {wanted.kv_bits}"
        name = cost_name(backend_facts(), model_folders(self._config, wanted), layout)
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
