"""A server of a real model under mixed traffic for a while: memory, files and threads stay level.

In CI 20 seconds, at full size (`make soak`) 30 minutes.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx
from faulty import Sized
from scrape import ended, gauges

CLIENTS = 8
SAMPLE_SECONDS = 0.5
FILLING_SECONDS = 60
MIB = 1 << 20


class Sample(NamedTuple):
    """What the server holds at one moment."""

    resident_bytes: float
    open_files: float
    threads: int


def descendants(pid: int) -> Iterator[int]:
    """Processes that the process's main thread has started, and theirs."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from descendants(int(child))


def count_threads() -> int:
    """Threads of the server, parent and worker."""
    tasks = (Path(f"/proc/{pid}/task").iterdir() for pid in descendants(os.getpid()))
    return sum(1 for of_one in tasks for _ in of_one)


async def sample(client: httpx.AsyncClient) -> Sample:
    now = await gauges(client)
    memory, files = now["process_resident_memory_bytes"], now["process_open_fds"]
    return Sample(memory, files, count_threads())


async def chat(client: httpx.AsyncClient, rng: random.Random) -> None:
    """A conversation of a few turns: streamed or whole, sampled or greedy, sometimes given up."""
    messages: list[dict[str, str]] = [{"role": "system", "content": f"Shared {rng.randrange(4)}."}]
    for turn in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": f"Say {rng.randrange(1000)} and {turn}."})
        body = {"model": "demo", "messages": messages, "max_tokens": rng.randint(1, 48)}
        body |= {"stream": rng.random() < 0.5, "temperature": rng.choice([0, 0.8])}
        if rng.random() < 0.1:
            body["stop"] = [" "]
        try:
            async with asyncio.timeout(rng.random() if rng.random() < 0.2 else 60):
                answer = await client.post("/v1/chat/completions", json=body)
        except TimeoutError:
            return
        assert answer.status_code in (200, 429), answer.text
        messages.append({"role": "assistant", "content": f"It was {turn}."})


async def mistake(client: httpx.AsyncClient, rng: random.Random) -> None:
    """What is refused must cost nothing either."""
    broken = {"model": rng.choice(["demo", "nobody"]), "messages": "none", "n": rng.random()}
    answer = await client.post("/v1/chat/completions", json=broken)
    assert answer.status_code in (400, 404)


def level(samples: list[Sample]) -> Sample:
    """The middle of each figure."""
    columns = list(zip(*samples, strict=True))
    return Sample(median(columns[0]), median(columns[1]), int(median(columns[2])))


async def test_nothing_grows_under_mixed_traffic(demo_url: str, sized: Sized) -> None:
    over = asyncio.Event()
    samples: list[Sample] = []

    async def one(number: int) -> None:
        rng = random.Random(number)
        async with httpx.AsyncClient(base_url=demo_url, timeout=120) as client:
            while not over.is_set():
                await (mistake if rng.random() < 0.1 else chat)(client, rng)

    async with (
        httpx.AsyncClient(base_url=demo_url, timeout=120) as watcher,
        asyncio.TaskGroup() as load,
    ):
        for number in range(CLIENTS):
            load.create_task(one(number))
        async with asyncio.timeout(FILLING_SECONDS):
            while not (await gauges(watcher))["mlxspec:prefix_evictions_total"]:  # noqa: ASYNC110
                await asyncio.sleep(SAMPLE_SECONDS)
        until = time.monotonic() + sized(20, 1800)
        while time.monotonic() < until:
            samples.append(await sample(watcher))
            await asyncio.sleep(SAMPLE_SECONDS)
        over.set()
    # The caches are full. The first half warms up: threads start, the allocator finds its size.
    half, fifth = len(samples) // 2, len(samples) // 5
    before, after = level(samples[half : half + fifth]), level(samples[-fifth:])
    grown = (after.resident_bytes - before.resident_bytes) / MIB
    assert grown < sized(24, 8), f"{grown:.1f} MiB, {before} to {after}"
    assert after.open_files <= before.open_files + CLIENTS
    assert after.threads <= before.threads

    async with httpx.AsyncClient(base_url=demo_url, timeout=120) as client:
        await asyncio.sleep(1)
        now = await gauges(client)
    assert ended(now) == now["mlxspec:requests_submitted_total"]
    assert now["mlxspec:requests_failed_total"] == now["mlxspec:integrity_errors_total"] == 0
    assert now["mlxspec:step_errors_total"] == now["mlxspec:wake_errors_total"] == 0
    print(f"{ended(now):.0f} requests, {grown:+.1f} MiB, {after}")
