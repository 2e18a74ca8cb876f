"""Clients of a real model that leave at any moment: nothing stays held, nobody else notices."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from faulty import Sized

AT_ONCE = 12
START_SECONDS = 180
IDLE_SECONDS = 5


@pytest.fixture
def url(demo_folder: Path, tmp_path: Path) -> Iterator[str]:
    """A server of the demo model; it must end well."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "mlxspec", "serve", "demo", "--port", "0"]
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment)
    deadline = time.monotonic() + START_SECONDS
    while "model ready" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    found = re.search(r'"url": "([^"]+)"', log.read_text())
    assert found is not None
    yield found[1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, log.read_text()


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


async def ask(client: httpx.AsyncClient, leave_after: float | None, number: int) -> str:
    """One chat, whole or streamed, given up after so many seconds if at all."""
    messages = [{"role": "user", "content": f"Count from {number % 3}."}]
    body = {"model": "demo", "messages": messages, "temperature": 0, "max_tokens": 12}
    if leave_after is None:
        answer = await client.post("/v1/chat/completions", json=body)
        return str(answer.json()["choices"][0]["message"]["content"])
    try:
        async with asyncio.timeout(leave_after):
            long = {"max_tokens": 4000, "ignore_eos": True, "stream": number % 2 == 0}
            await client.post("/v1/chat/completions", json=body | long)
    except (TimeoutError, httpx.TransportError):
        pass
    return ""


async def test_clients_that_leave_leak_nothing_and_change_nobodys_answer(
    url: str, sized: Sized
) -> None:
    rng, left = random.Random(3), asyncio.Semaphore(AT_ONCE)
    limits = httpx.Limits(max_connections=AT_ONCE + 1)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
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
        while now["mlxspec:requests_running"] + now["mlxspec:requests_waiting"] > 0:
            assert time.monotonic() < deadline, "somebody still runs"
            await asyncio.sleep(0.05)
            now = await gauges(client)
        assert now["mlxspec:integrity_errors_total"] == 0
        assert now["mlxspec:requests_failed_total"] == 0
        assert now["process_open_fds"] <= before["process_open_fds"] + AT_ONCE
        ends = ("finished", "aborted", "expired", "failed")
        ended = sum(now[f"mlxspec:requests_{how}_total"] for how in ends)
        assert ended == now["mlxspec:requests_submitted_total"]
