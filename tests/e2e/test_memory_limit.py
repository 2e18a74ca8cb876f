"""A server far above its memory limit: one request is served, others hear when to come back."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server_process import started
from tiny_models import save_model_with_demo_words


@pytest.fixture
def url(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("MLXSPEC_MEMORY_LIMIT", "64MiB")
    model = save_model_with_demo_words(tmp_path / "demo", demo_folder)
    with started(tmp_path / "log", model) as url:
        yield url


async def test_a_server_beyond_its_limit_serves_one_and_refuses_the_rest(url: str) -> None:
    messages = [{"role": "user", "content": "Count."}]
    body = {"model": "demo", "messages": messages, "max_tokens": 400, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=body) for _ in range(6))
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200
        assert statuses[-1] == 503
        for refused in (answer for answer in answers if answer.status_code == 503):
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "memory is short" in refused.json()["error"]["message"]
        again = await client.post("/v1/chat/completions", json=body)
        assert again.status_code == 200
        metrics = (await client.get("/metrics")).text
    assert "mlxspec:memory_shortage 2.0" in metrics
