"""A running engine of several models, asked for texts and for where they stand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mlxspec.config import Config
from mlxspec.engine.engine import Engine
from mlxspec.engine.request import GenerationRequest, SamplingParams


@asynccontextmanager
async def running(configuration: Config) -> AsyncIterator[Engine]:
    engine = Engine(configuration)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(0)
        assert not engine.alive()
        assert engine.counters().integrity_errors == 0


async def text(engine: Engine, model: str, **options: Any) -> str:
    request = GenerationRequest(
        model=model,
        sampling=SamplingParams(temperature=0),
        **{"prompt": "abc abc abc", "max_tokens": 12, "ignore_eos": True, **options},
    )
    generation = await engine.submit(request)
    return "".join([delta.text async for delta in generation])


def states(engine: Engine) -> dict[str, str]:
    return {card.id: card.state for card in engine.models()}


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the engine tells no event of ours
            await asyncio.sleep(0.005)
