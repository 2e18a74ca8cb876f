"""Instances, groups and limits of real models."""

import asyncio
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from msgspec.structs import replace
from resident import running, text, until

from mlxspec.config import Config, KVConfig, SpeculationConfig
from mlxspec.errors import QueueFullError
from mlxspec.model_tables import GroupConfig, ModelConfig

pytestmark = pytest.mark.usefixtures("drafts_look_free")

PROMPTS = [f"abc {at} abc abc" for at in range(6)]


def config(folders: list[Path], **model: Any) -> Config:
    return Config(
        models=tuple(ModelConfig(id=it.name, source=str(it), **model) for it in folders),
        kv=KVConfig(memory_bytes=8 << 20),
        speculation=SpeculationConfig(keep_costs=False),
    )


@pytest.mark.parametrize("balance", ["round-robin", "least-loaded", "prefix"])
async def test_instances_say_what_one_says_and_share_its_weights(
    folders: list[Path], balance: str
) -> None:
    async with running(config(folders[:1])) as engine:
        alone = [await text(engine, "m0", prompt=it) for it in PROMPTS]
        weights = mx.get_active_memory()
    asked = config(folders[:1], instances=3, balance=balance)
    async with running(asked) as engine:
        for _ in range(2):
            texts = await asyncio.gather(*(text(engine, "m0", prompt=it) for it in PROMPTS))
            assert texts == alone
        await engine.unload("m0")
        assert await text(engine, "m0", prompt=PROMPTS[0]) == alone[0]
        kv = engine.memory_use().held
        assert mx.get_active_memory() < weights + kv, "its weights are there once"


async def test_a_conversation_finds_its_prefix_among_instances(folders: list[Path]) -> None:
    async with running(config(folders[:1], instances=3)) as engine:
        long = ["abc " * 40 + str(at) for at in range(3)]
        for prompt in long:
            await text(engine, "m0", prompt=prompt)
        before = engine.counters().cached_tokens
        for prompt in reversed(long):
            await text(engine, "m0", prompt=prompt + " and more")
        assert engine.counters().cached_tokens - before > 3 * 32


async def test_requests_above_a_limit_wait_in_order_or_are_refused(folders: list[Path]) -> None:
    asked = replace(
        config(folders[:2]),
        groups={"both": GroupConfig(members=("m0", "m1"), max_running=1, max_waiting=3)},
    )
    async with running(asked) as engine:
        await asyncio.gather(text(engine, "m0"), text(engine, "m1"))
        ended: list[int] = []

        async def ask(at: int) -> None:
            await text(engine, f"m{at % 2}", max_tokens=200)
            ended.append(at)

        tasks = []
        for at in range(4):
            tasks.append(asyncio.create_task(ask(at)))
            await until(lambda at=at: engine.counters().requests_submitted == 3 + at)
        with pytest.raises(QueueFullError, match="group 'both' has 4 requests") as full:
            await text(engine, "both")
        assert full.value.retry_after
        await asyncio.gather(*tasks)
        assert ended == [0, 1, 2, 3]
