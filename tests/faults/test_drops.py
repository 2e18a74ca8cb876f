"""Clients of a real model that leave at any moment: nothing stays held, nobody else notices."""

import asyncio
import random
import time

import httpx
from faulty import Sized
from scrape import ended, gauges, in_flight

IDLE_SECONDS = 5


async def ask(client: httpx.AsyncClient, leave_after: float | None, number: int) -> str:
    """One chat, whole or streamed, given up after so many seconds if at all."""
    messages = [{"role": "user", "content": f"Count from {number % 3}."}]
    body = {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 12}
    if leave_after is None:
        answer = await client.post("/v1/chat/completions", json=body)
        return str(answer.json()["choices"][0]["message"]["content"])
    try:
        async with asyncio.timeout(leave_after):
            # Most leave in the queue or midway, some at about their last token.
            long = {"max_tokens": 4000 if number % 5 else 12, "stream": number % 2 == 0}
            await client.post("/v1/chat/completions", json=body | long | {"ignore_eos": True})
    except (TimeoutError, httpx.TransportError):
        pass
    return ""


async def test_clients_that_leave_leak_nothing_and_change_nobodys_answer(
    demo_url: str, sized: Sized
) -> None:
    at_once = sized(12, 96)  # at full size more than may run
    rng, left = random.Random(3), asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=at_once + 1)
    async with httpx.AsyncClient(base_url=demo_url, timeout=300, limits=limits) as client:
        alone = [await ask(client, None, number) for number in range(3)]
        before = await gauges(client)

        async def one(number: int) -> None:
            async with left:
                stays = rng.random() < 0.1
                text = await ask(client, None if stays else rng.random(), number)
                assert not stays or text == alone[number % 3]

        await asyncio.gather(*(one(number) for number in range(sized(60, 10_000))))
        now = await gauges(client)
        deadline = time.monotonic() + IDLE_SECONDS
        while in_flight(now):
            assert time.monotonic() < deadline, "somebody still runs"
            await asyncio.sleep(0.05)
            now = await gauges(client)
        assert now["mlxspec:integrity_errors_total"] == 0
        assert now["mlxspec:requests_failed_total"] == 0
        assert now["process_open_fds"] <= before["process_open_fds"] + at_once
        assert ended(now) == now["mlxspec:requests_submitted_total"]
