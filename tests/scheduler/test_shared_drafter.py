"""One draft model for several targets: in memory once, gone first, missed by no request."""

import asyncio
from pathlib import Path

import pytest
from resident import running, text, until

from mlxspec.config import Config, KVConfig, MemoryConfig, SpeculationConfig
from mlxspec.engine import runner as runner_module
from mlxspec.engine.engine import Engine
from mlxspec.model.load import adopt
from mlxspec.model.weights import weight_bytes
from mlxspec.model_tables import ModelConfig

KV_BYTES = 1 << 20

pytestmark = pytest.mark.usefixtures("drafts_look_cheap")


def sharing(folders: list[Path], room: float) -> Config:
    """The first two models drafted for by a copy of the first; the third by nobody.

    room: for so many models, as a drafter takes a sixth of one here.
    """
    weights = max(weight_bytes(folder, as_float32=True) for folder in folders)
    first, second, third, _ = (str(folder) for folder in folders)
    return Config(
        models=(
            ModelConfig(id="first", source=first, draft_model=first, preload=False),
            ModelConfig(id="second", source=second, draft_model=first, preload=False),
            ModelConfig(id="third", source=third, preload=False),
        ),
        memory=MemoryConfig(
            budget_bytes=int((weights + KV_BYTES) * room),
            patience_seconds=0.02,
            min_resident_seconds=0.0,
        ),
        kv=KVConfig(memory_bytes=3 * KV_BYTES),
        speculation=SpeculationConfig(keep_costs=False, shared_suffix_bytes=0),
    )


def drafter_state(engine: Engine) -> str:
    [drafter] = engine.drafters()
    return drafter.state


def by_model(engine: Engine) -> int:
    name, proposed, _ = engine.counters().drafters[-1]
    assert name == "draft_model"
    return proposed


async def test_two_targets_share_one_drafter_whose_memory_counts_once(folders: list[Path]) -> None:
    async with running(sharing(folders, room=4)) as engine:
        await text(engine, "first")
        await until(lambda: drafter_state(engine) == "resident")
        for name in ("first", "second"):
            before = by_model(engine)
            await text(engine, name, max_tokens=60)
            assert by_model(engine) > before, f"nobody drafts for {name}"
        [drafter] = engine.drafters()
        assert (drafter.num_served, drafter.models) == (2, ("first", "second"))
        held = sum(engine.model(name).memory_bytes for name in ("first", "second"))
        assert engine.counters().model_bytes == held + drafter.memory_bytes
        assert engine.counters().drafter_loads == 1
        await engine.unload("first")
        assert drafter_state(engine) == "resident"
        await engine.unload("second")
        await until(lambda: drafter_state(engine) == "absent")
        assert engine.counters().model_bytes == 0


async def test_drafts_that_leave_and_come_back_change_no_text(folders: list[Path]) -> None:
    async with running(sharing(folders, room=2.2)) as engine:
        alone = await text(engine, "first", max_tokens=900, speculative=False)
        await until(lambda: drafter_state(engine) == "resident")
        stream = asyncio.create_task(text(engine, "first", max_tokens=900))
        before = by_model(engine)
        await until(lambda: by_model(engine) > before)
        await text(engine, "third")
        assert drafter_state(engine) == "absent"
        assert not stream.done()
        gone = by_model(engine)
        await engine.unload("third")
        await until(lambda: by_model(engine) > gone or stream.done())
        assert not stream.done(), "it did not come back in time"
        assert await stream == alone
        counters = engine.counters()
        assert (counters.drafter_evictions, counters.model_evictions) == (1, 1)
        assert counters.requests_failed == 0


async def test_a_drafter_that_fails_to_load_harms_nobody(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {}
    async with running(sharing(folders, room=4)) as engine:
        alone = {name: await text(engine, name) for name in ("first", "second")}
    calls: list[object] = []

    def second_fails(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise MemoryError("no memory for it")
        return adopt(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runner_module, "adopt", second_fails)
    async with running(sharing(folders, room=4)) as engine:
        assert await text(engine, "first") == alone["first"]
        await until(lambda: drafter_state(engine) == "failed")
        assert await text(engine, "second") == alone["second"]
        assert engine.counters().requests_failed == 0
