"""How the memory of the device is shared among models, their KV and their drafters."""

from pathlib import Path

import msgspec
import pytest

from mlxspec.config import Config, KVConfig, MemoryConfig
from mlxspec.engine.memory import LEAST_KV_BYTES, SHARE_OF_FREE, default_kv_bytes, plan_memory
from mlxspec.model.backend import BackendFacts, prepare
from mlxspec.model.weights import weight_bytes
from mlxspec.model_tables import ModelConfig

FREE = 8 << 30


@pytest.fixture
def device() -> BackendFacts:
    return msgspec.structs.replace(prepare().facts, kind="cpu", free_memory_bytes=FREE)


@pytest.fixture
def weights(tiny_folder: Path) -> int:
    return weight_bytes(tiny_folder, as_float32=True)


def config(folder: Path, num_models: int, **parts: object) -> Config:
    models = tuple(ModelConfig(id=f"model {at}", source=str(folder)) for at in range(num_models))
    return msgspec.structs.replace(Config(models=models), **parts)


def test_kv_is_half_of_what_weights_leave_of_the_memory_that_is_free(
    tiny_folder: Path, device: BackendFacts, weights: int
) -> None:
    plan = plan_memory(config(tiny_folder, 1), device)
    assert plan.budget == int(FREE * SHARE_OF_FREE)
    [model] = plan.models
    assert model.kv_bytes == (plan.budget - weights) // 2
    assert model.need == weights + model.kv_bytes


@pytest.mark.parametrize("named", [None, 1 << 30])
def test_models_share_one_kv_budget_equally(
    tiny_folder: Path, device: BackendFacts, weights: int, named: int | None
) -> None:
    plan = plan_memory(config(tiny_folder, 4, kv=KVConfig(memory_bytes=named)), device)
    whole = named or (plan.budget - 4 * weights) // 2
    assert [it.kv_bytes for it in plan.models] == [whole // 4] * 4
    assert sum(it.need for it in plan.models) <= plan.budget


def test_a_named_budget_takes_the_place_of_the_measured_one(
    tiny_folder: Path, device: BackendFacts, weights: int
) -> None:
    memory = MemoryConfig(budget_bytes=1 << 30)
    plan = plan_memory(config(tiny_folder, 1, memory=memory), device)
    assert (plan.budget, plan.models[0].kv_bytes) == (1 << 30, ((1 << 30) - weights) // 2)


def test_models_that_do_not_fit_together_leave_room_for_the_largest() -> None:
    assert default_kv_bytes(100 << 30, [60 << 30, 70 << 30], 0) == (30 << 30) // 2
    assert default_kv_bytes(100 << 30, [30 << 30, 20 << 30], 10 << 30) == (40 << 30) // 2


def test_every_model_gets_some_kv_however_little_is_left() -> None:
    assert default_kv_bytes(10 << 30, [10 << 30], 0) == LEAST_KV_BYTES
    assert default_kv_bytes(1 << 30, [2 << 30, 1 << 30], 0) == 2 * LEAST_KV_BYTES
