"""Several models in one memory: real loads and evictions under load, and loads that fail."""

import asyncio
import gc
import random
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from resident import running, states, text, until

from mlxspec.config import Config, KVConfig, MemoryConfig, SpeculationConfig
from mlxspec.engine import runner as runner_module
from mlxspec.engine import step_costs
from mlxspec.engine.engine import Engine
from mlxspec.errors import ModelPinnedError, UnavailableError
from mlxspec.model.weights import weight_bytes
from mlxspec.model_tables import ModelConfig

KV_BYTES = 1 << 20


pytestmark = pytest.mark.usefixtures("drafts_look_free")


def config(folders: list[Path], room: float = 2.2, **memory: Any) -> Config:
    """A server of these models with room for so many of them."""
    need = max(weight_bytes(folder, as_float32=True) for folder in folders) + KV_BYTES
    quick = {"patience_seconds": 0.02, "min_resident_seconds": 0.0, **memory}
    return Config(
        models=tuple(ModelConfig(id=it.name, source=str(it), preload=False) for it in folders),
        memory=MemoryConfig(budget_bytes=int(need * room), **quick),
        kv=KVConfig(memory_bytes=KV_BYTES * len(folders)),
        speculation=SpeculationConfig(keep_costs=False),
    )


async def test_models_come_and_go_under_load_and_every_request_gets_its_text(
    folders: list[Path], pytestconfig: pytest.Config
) -> None:
    num_loads = 500 if pytestconfig.getoption("full") else 40
    configuration = config(folders)
    budget = configuration.memory.budget_bytes
    assert budget is not None
    names = [folder.name for folder in folders]
    before = mx.get_active_memory()
    async with running(configuration) as engine:
        expected = {name: await text(engine, name) for name in names}
        assert len(set(expected.values())) == len(names), "the models say the same"
        rng = random.Random(0)

        async def client() -> None:
            while engine.counters().model_loads < num_loads:
                name = rng.choice(names)
                assert await text(engine, name) == expected[name]
                counters = engine.counters()
                assert counters.model_bytes <= budget
                assert counters.models_resident <= 2

        await asyncio.gather(*(client() for _ in range(8)))
        for name in names:
            assert (await engine.unload(name)).state == "absent"
        counters = engine.counters()
        assert (counters.requests_failed, counters.requests_rejected) == (0, 0)
        assert (counters.model_bytes, counters.kv_blocks_total) == (0, 0)
    gc.collect()
    mx.clear_cache()
    assert mx.get_active_memory() <= before * 1.01 + 4096


async def test_a_stream_goes_on_while_other_models_come_and_go(folders: list[Path]) -> None:
    first, *others = [folder.name for folder in folders]
    async with running(config(folders, patience_seconds=60)) as engine:
        alone = await text(engine, first, max_tokens=300)
        stream = asyncio.create_task(text(engine, first, max_tokens=300))
        for name in others:
            await text(engine, name)
        assert await stream == alone
        assert engine.counters().model_evictions >= 2


@pytest.mark.parametrize("stage", ["check_folder", "open_model", "adopt", "KVStore", "measure"])
async def test_loads_that_fail_at_any_stage_leave_nothing_behind(
    folders: list[Path], pytestconfig: pytest.Config, stage: str
) -> None:
    gc.collect()
    before = mx.get_active_memory()
    for _ in range(20 if pytestconfig.getoption("full") else 1):
        async with running(config(folders)) as engine:
            await fail_to_load(engine, stage)
            gc.collect()
            # The loader has a state of MLX's random numbers, traced functions their constants.
            assert mx.get_active_memory() <= before + 1024
            assert engine.counters().model_bytes == 0
            assert engine.model("m0").state == "failed"
            assert await text(engine, "m3"), "the others are not harmed"


async def fail_to_load(engine: Engine, stage: str) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError("no memory at this stage")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_costs if stage == "measure" else runner_module, stage, broken)
        for name in ("m0", "m1", "m2"):
            with pytest.raises(UnavailableError, match="could not be loaded"):
                await text(engine, name)
    with pytest.raises(UnavailableError, match="try again in"):
        await text(engine, "m2")


async def test_who_gives_up_calls_the_load_off(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    portions = []
    real = runner_module.adopt

    def slow(model: Any, context: int, progress: Any) -> Any:
        for at in range(2000):
            portions.append(at)
            progress("weights", at, 2000)
            time.sleep(0.005)
        return real(model, context, progress)

    async with running(config(folders)) as engine:
        monkeypatch.setattr(runner_module, "adopt", slow)
        waiting = asyncio.create_task(text(engine, "m0"))
        await until(lambda: states(engine)["m0"] == "loading")
        waiting.cancel()
        await until(lambda: states(engine)["m0"] == "absent")
        assert len(portions) < 1000
        assert engine.counters().model_bytes == 0


async def test_an_idle_model_leaves_when_its_time_is_over(folders: list[Path]) -> None:
    async with running(config(folders)) as engine:
        await text(engine, "m0", keep_alive=0.1)
        await until(lambda: states(engine)["m0"] == "absent")
        await text(engine, "m0", keep_alive=-1.0)
        assert engine.model("m0").expires_in is None
        await text(engine, "m0", keep_alive=60.0)
        await asyncio.sleep(0.01)
        left = engine.model("m0").expires_in
        assert left is not None
        assert 50 < left < 60


async def test_the_least_recently_used_idle_model_makes_room(folders: list[Path]) -> None:
    async with running(config(folders)) as engine:
        for name in ("m0", "m1", "m0", "m2"):
            await text(engine, name)
        assert states(engine) == {
            "m0": "resident",
            "m1": "absent",
            "m2": "resident",
            "m3": "absent",
        }


async def test_a_pinned_model_stays_whatever_happens(folders: list[Path]) -> None:
    plain = config(folders)
    models = tuple(
        ModelConfig(id=model.id, source=model.source, preload=False, pinned=model.id == "m0")
        for model in plain.models
    )
    configuration = Config(
        models=models, memory=plain.memory, kv=plain.kv, speculation=plain.speculation
    )
    async with running(configuration) as engine:
        for name in ("m0", "m1", "m2", "m3"):
            await text(engine, name, keep_alive=0.0)
        assert states(engine)["m0"] == "resident"
        with pytest.raises(ModelPinnedError):
            await engine.unload("m0")


@pytest.mark.parametrize(
    ("when_full", "wait_seconds", "reason"),
    [("fail", 60.0, "are free"), ("wait", 0.3, "no memory became free")],
)
async def test_a_policy_that_evicts_nobody_refuses(
    folders: list[Path], when_full: str, wait_seconds: float, reason: str
) -> None:
    asked = config(folders, when_full=when_full, wait_seconds=wait_seconds)
    async with running(asked) as engine:
        await text(engine, "m0")
        await text(engine, "m1")
        with pytest.raises(UnavailableError, match=reason) as refused:
            await text(engine, "m2")
        assert refused.value.retry_after
        await engine.unload("m0")
        assert await text(engine, "m2")


async def test_a_model_larger_than_the_budget_is_refused_with_its_numbers(
    folders: list[Path],
) -> None:
    async with running(config(folders, room=0.5)) as engine:
        with pytest.raises(UnavailableError, match="raise --memory"):
            await text(engine, "m0")


async def test_loading_at_once_from_many_sides_loads_once(folders: list[Path]) -> None:
    async with running(config(folders)) as engine:
        cards = await asyncio.gather(*(engine.load("m0") for _ in range(8)))
        assert {card.state for card in cards} == {"resident"}
        assert engine.counters().model_loads == 1
