"""Two real models of one server with room for one: switching, streams, and the verbs for it."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI

from server_process import started
from tiny_models import save_model_with_tokenizer

TOML = """
[memory]
budget_bytes = {budget}
patience_seconds = 0.2
min_resident_seconds = 0.0

[kv]
memory_bytes = 134217728

[[models]]
id = "demo"
source = "demo"
aliases = ["gpt-4o"]
tags = ["chat"]

[[models]]
id = "tiny"
source = "{tiny}"
preload = false
description = "a random qwen"
"""


@pytest.fixture(scope="module")
def server(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the demo model and a tiny qwen3, with room for either."""
    root = tmp_path_factory.mktemp("two")
    tiny = save_model_with_tokenizer(root / "tiny", "qwen3", 1)
    # The demo's weights in float32, its share of KV, and not enough beside them for another share.
    budget = (demo_folder / "model.safetensors").stat().st_size + (100 << 20)
    (root / "mlxspec.toml").write_text(TOML.format(budget=budget, tiny=tiny))
    with started(root / "log", "--config", root / "mlxspec.toml") as url:
        yield url


def states(server: str) -> dict[str, str]:
    shown = httpx.get(f"{server}/models").json()["data"]
    return {model["id"]: model["status"]["value"] for model in shown}


def stats(server: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server}/stats").json()
    return found


def verb(server: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "mlxspec", *arguments, "--url", server]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


async def ask(client: AsyncOpenAI, model: str, **options: Any) -> str:
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "abc abc abc"}],
        **{"temperature": 0, "max_tokens": 12, **options},
    )
    return str(answer.choices[0].message.content)


async def test_models_take_turns_under_load_and_keep_their_texts(
    client: AsyncOpenAI, server: str
) -> None:
    assert states(server) == {"demo": "loaded", "tiny": "unloaded"}
    alone = {name: await ask(client, name) for name in ("demo", "tiny", "demo")}
    assert alone["demo"] != alone["tiny"]

    async def stream() -> str:
        chunks = await client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "abc abc abc"}],
            temperature=0,
            max_tokens=12,
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    asked = ["demo", "tiny"] * 6
    texts = await asyncio.gather(*(ask(client, name) for name in asked), stream(), stream())
    assert texts == [*(alone[name] for name in asked), alone["demo"], alone["demo"]]
    after = stats(server)
    assert after["memory"]["held"] <= after["memory"]["budget"]
    assert after["counters"]["model_evictions"] >= 2


async def test_the_verbs_load_show_find_and_stop(server: str) -> None:
    assert "loaded tiny" in verb(server, "load", "tiny")
    shown = verb(server, "ps")
    assert "tiny" in shown
    assert "demo" not in shown
    assert "demo" in verb(server, "search", "--tag", "chat")
    assert "stopped tiny" in verb(server, "stop", "tiny")
    assert "no model is in memory" in verb(server, "ps")
    assert "is not served here" in verb(server, "load", "/etc/passwd")


async def test_a_client_that_leaves_while_its_model_loads_is_forgotten(
    client: AsyncOpenAI, server: str
) -> None:
    verb(server, "stop", "demo")
    with pytest.raises(Exception, match="timed out"):
        await ask(client, "demo", timeout=0.05, max_tokens=500)
    deadline = asyncio.get_running_loop().time() + 20
    while (counters := stats(server)["counters"])["requests_aborted"] == 0:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    assert counters["requests_waiting"] == 0


async def test_only_configured_models_are_ever_loaded(client: AsyncOpenAI, tmp_path: Path) -> None:
    folder = save_model_with_tokenizer(tmp_path / "foreign", "llama", 2)
    for name in (str(folder), "../tiny", "mlx-community/anything"):
        with pytest.raises(APIStatusError) as refused:
            await ask(client, name)
        assert refused.value.status_code == 404
