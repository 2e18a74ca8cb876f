"""Memory that runs short, by scripted measurements: what goes, who is refused, who goes on."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from costs import say_free

from mlxspec.config import Config, KVConfig, MemoryConfig, SpeculationConfig
from mlxspec.engine import runner as runner_module
from mlxspec.engine.engine import Engine
from mlxspec.engine.request import GenerationRequest, SamplingParams
from mlxspec.errors import UnavailableError
from mlxspec.model.memory_gauge import MemoryGauge
from mlxspec.model_tables import ModelConfig
from tiny_models import save_model_with_tokenizer

BACK_SECONDS = 1.0
STEP_SECONDS = 0.01
LONG = 250
"""Tokens that are under way for seconds, between two measurements and more."""


class Script:
    """What is measured next."""

    share = 0.5


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    say_free(monkeypatch)
    script = Script()
    monkeypatch.setattr(MemoryGauge, "share", lambda _: script.share)
    step = runner_module.run_step

    def slow(*arguments: Any) -> Any:
        time.sleep(STEP_SECONDS)
        return step(*arguments)

    monkeypatch.setattr(runner_module, "run_step", slow)
    return script


@pytest.fixture
async def engine(script: Script, tmp_path: Path) -> AsyncIterator[Engine]:
    folders = [save_model_with_tokenizer(tmp_path / name, "llama", 1) for name in ("a", "b")]
    engine = Engine(
        Config(
            models=tuple(ModelConfig(id=it.name, source=str(it)) for it in folders),
            memory=MemoryConfig(budget_bytes=64 << 20),
            kv=KVConfig(memory_bytes=4 << 20),
            speculation=SpeculationConfig(enabled=False),
        )
    )
    await engine.start()
    await until(engine.ready)
    yield engine
    script.share = 0.5
    await engine.stop(0)
    assert engine.counters().integrity_errors == 0


async def text(engine: Engine, model: str, max_tokens: int = 12) -> str:
    request = GenerationRequest(
        model=model,
        prompt="abc abc abc abc abc abc",
        sampling=SamplingParams(temperature=0),
        max_tokens=max_tokens,
        ignore_eos=True,
    )
    generation = await engine.submit(request)
    return "".join([delta.text async for delta in generation])


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the engine tells no event of ours
            await asyncio.sleep(0.005)


async def test_who_decodes_goes_on_and_who_comes_is_refused_until_memory_is_free(
    engine: Engine, script: Script
) -> None:
    alone = await text(engine, "a", LONG)
    running = asyncio.create_task(text(engine, "a", LONG))
    await until(lambda: engine.counters().requests_running == 1)
    script.share = 0.96
    await until(lambda: engine.counters().memory_shortage == 2)
    with pytest.raises(UnavailableError, match="memory is short") as refused:
        await text(engine, "a")
    assert refused.value.retry_after
    assert not running.done(), "the test ran too late"
    assert await running == alone
    assert await text(engine, "a"), "nobody else runs: one may, or nobody ever could"
    script.share, freed = 0.5, time.monotonic()
    await until(lambda: engine.counters().memory_shortage == 0)
    assert time.monotonic() - freed < BACK_SECONDS
    assert all(await asyncio.gather(*(text(engine, "a") for _ in range(4))))
    assert engine.counters().memory_trims > 0


async def test_caches_and_idle_models_go_while_others_work(engine: Engine, script: Script) -> None:
    await text(engine, "b")
    for number in range(4):
        await text(engine, "a", 20 + number)
    assert engine.counters().kv_blocks_cached > 0
    working = asyncio.create_task(text(engine, "a", LONG))
    await until(lambda: engine.counters().requests_running == 1)
    script.share = 0.9
    await until(lambda: engine.model("b").state == "absent")
    assert engine.counters().kv_blocks_cached == 0
    assert engine.model("a").state == "resident"
    script.share = 0.5
    assert await working
    assert await text(engine, "b"), "it comes back when it is asked for"
