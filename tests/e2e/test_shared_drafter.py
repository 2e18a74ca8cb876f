"""Two models share a draft model, which gives way to a third while their streams run."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from chats import COPY, PLAIN, QUESTIONS
from server_process import started
from tiny_models import save_model_with_tokenizer

KV_BYTES = 48 << 20
"""For each of the three models."""

TOML = """
[memory]
budget_bytes = {budget}
min_resident_seconds = 0.0

[kv]
memory_bytes = {kv}

[models.demo]
source = "demo"
draft_model = "quick"

[models.same]
source = "{short}"
draft_model = "quick"

[models.tiny]
source = "{tiny}"
preload = false

[drafters.quick]
source = "{short}"
"""


@pytest.fixture(scope="module")
def server(
    demo_folder: Path, short_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Room for two models and their drafter, or for three models."""
    root = tmp_path_factory.mktemp("shared")
    tiny = save_model_with_tokenizer(root / "tiny", "qwen3", 1)
    weights = [(it / "model.safetensors").stat().st_size for it in (demo_folder, short_model)]
    budget = sum(weights) + weights[1] + 2 * KV_BYTES + (8 << 20)
    text = TOML.format(budget=budget, kv=3 * KV_BYTES, short=short_model, tiny=tiny)
    (root / "mlxspec.toml").write_text(text)
    with started(root / "log", "--config", root / "mlxspec.toml") as url:
        yield url


def stats(server: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server}/stats").json()
    return found


def unload(server: str, model: str) -> None:
    asked = {"model": model, "wait": True}
    httpx.post(f"{server}/models/unload", json=asked, timeout=30).raise_for_status()


async def stream(client: AsyncOpenAI, model: str, question: str, **options: Any) -> str:
    chunks = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        stream=True,
        **{"temperature": 0, "max_tokens": 60, **options},
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


async def test_drafts_give_way_mid_stream_and_no_text_changes(
    client: AsyncOpenAI, server: str
) -> None:
    shown = stats(server)
    [drafter] = shown["drafters"]
    assert (drafter["state"], drafter["num_served"]) == ("resident", 2)
    assert (drafter["id"], drafter["models"]) == ("quick", ["demo", "same"])
    in_models = sum(model["meta"]["memory"] for model in shown["models"][:2])
    assert shown["memory"]["held"] == in_models + drafter["memory_bytes"], "it counts once"

    asked = [(model, it) for model in ("demo", "same") for it in (COPY, QUESTIONS[0])]
    plain = [await stream(client, *it, extra_body=PLAIN) for it in asked]
    running = [asyncio.create_task(stream(client, *it)) for it in asked]
    await asyncio.sleep(0.5)
    assert not all(task.done() for task in running)
    await stream(client, "tiny", "abc")
    after = stats(server)
    assert after["drafters"][0]["state"] == "absent"
    assert after["counters"]["model_evictions"] == 0
    assert await asyncio.gather(*running) == plain

    unload(server, "tiny")
    async with asyncio.timeout(30):
        while stats(server)["drafters"][0]["state"] != "resident":  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    assert await stream(client, *asked[0]) == plain[0]
    counters = stats(server)["counters"]
    assert counters["drafter_loads"] == 2
    assert counters["drafter_evictions"] == 1
    assert (counters["requests_failed"], counters["requests_rejected"]) == (0, 0)
