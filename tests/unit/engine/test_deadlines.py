"""A generation's deadlines: each ends it once, with its own error, even if the engine hangs."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel

from mlxspec.config import LimitsConfig
from mlxspec.engine.deadlines import Deadlines
from mlxspec.engine.detokenize import Detokenizer
from mlxspec.engine.generation import End, Generation
from mlxspec.engine.logprobs import LogprobQueue
from mlxspec.engine.output import Output
from mlxspec.engine.reply import ReplyParser
from mlxspec.errors import DeadlineError, QueueTimeoutError

Log = list[str]
ENDED = End("length", "", 0.0, 0, 0, 0, [], (0, 0))


def generation(log: Log, timeout: float | None = None, **limits: float) -> Generation:
    """A generation on a scheduler that only writes down what it is told."""
    tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    tokenizer.decoder = ByteLevel()
    return Generation(
        num_prompt_tokens=1,
        output=Output(
            detokenizer=Detokenizer(tokenizer, frozenset()),
            stop=(),
            stop_tokens=frozenset(),
            min_tokens=0,
            reply=ReplyParser.plain(),
            logprobs=LogprobQueue(lambda _: b""),
        ),
        abort=lambda: log.append("abort"),
        on_end=str,
        deadlines=lambda fail: Deadlines(
            LimitsConfig(**limits), timeout, lambda: log.append("expire"), fail
        ),
    )


async def text(running: Generation) -> str:
    return "".join([delta.text async for delta in running])


@pytest.mark.parametrize("limit", ["first_token_seconds", "total_seconds"])
async def test_a_hung_engine_holds_no_client(limit: str) -> None:
    log: Log = []
    with pytest.raises(DeadlineError, match=r"longer than 0\.02 s"):
        await asyncio.wait_for(text(generation(log, **{limit: 0.02})), 2)
    assert log == ["abort"]


async def test_a_clients_own_limit_counts_within_the_servers() -> None:
    for timeout, limit in ((0.02, 60.0), (60.0, 0.02), (0.02, 0.0)):
        with pytest.raises(DeadlineError, match=r"answer took longer than 0\.02 s"):
            await asyncio.wait_for(text(generation([], timeout, total_seconds=limit)), 2)


async def test_the_first_token_stops_the_early_deadlines_only() -> None:
    log: Log = []
    running = generation(log, queue_seconds=0.02, first_token_seconds=0.02, total_seconds=0.1)
    running.deliver([0], [], None)
    await asyncio.sleep(0.05)
    assert log == []
    with pytest.raises(DeadlineError):
        await asyncio.wait_for(text(running), 2)
    assert log == ["abort"]


async def test_the_queues_deadline_only_asks_the_scheduler() -> None:
    log: Log = []
    running = generation(log, queue_seconds=0.02)
    reading = asyncio.create_task(text(running))
    await asyncio.sleep(0.05)
    assert log == ["expire"]
    assert not reading.done()
    running.deliver([], [], End("expired", "", 0.0, 0, 0, 0, [], (0, 0)))
    with pytest.raises(QueueTimeoutError, match="in the queue"):
        await reading
    assert log == ["expire"]


@pytest.mark.parametrize("end", [lambda it: it.deliver([], [], ENDED), lambda it: it.close()])
async def test_after_the_end_no_timer_fires(end: Callable[[Generation], Any]) -> None:
    log: Log = []
    running = generation(log, queue_seconds=0.02, first_token_seconds=0.02, total_seconds=0.02)
    end(running)
    log.clear()
    await asyncio.sleep(0.05)
    assert log == []


async def test_zero_means_no_deadline() -> None:
    log: Log = []
    none = generation(log, queue_seconds=0, first_token_seconds=0, total_seconds=0)
    await asyncio.sleep(0.02)
    none.deliver([0], [], ENDED)
    assert await text(none) != ""
    assert log == []
