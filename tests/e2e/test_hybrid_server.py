"""A model with recurrent layers, over HTTP: mlx-lm's own texts, to many at once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlx_lm import generate, load
from openai import AsyncOpenAI

from chats import metric
from server_process import started
from tiny_architectures import save_architecture
from tiny_models import save_tokenizer

PROMPTS = ["abc abc abc abc", "one, two, three, four", "a", "the rain in spain", "0123456789"]

UNKNOWN = "<47>"
"""A special token, which is no part of an answer's text."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = save_architecture(tmp_path_factory.mktemp("models"), "lfm2")
    save_tokenizer(made)
    return made


@pytest.fixture(scope="module")
def hybrid(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("hybrid") / "log", folder) as url:
        yield url


async def complete(client: AsyncOpenAI, model: str, prompt: str, **options: Any) -> str:
    answer = await client.completions.create(model=model, prompt=prompt, **options)
    assert answer.usage is not None
    return answer.choices[0].text


async def test_texts_are_mlx_lms_own_alone_and_together(hybrid: str, folder: Path) -> None:
    model, tokenizer = load(str(folder))[:2]
    texts = [generate(model, tokenizer, prompt, max_tokens=40) for prompt in PROMPTS]
    expected = [text.replace(UNKNOWN, "") for text in texts]
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0}
    async with AsyncOpenAI(base_url=f"{hybrid}/v1", api_key="none", max_retries=0) as client:
        [served] = (await client.models.list()).data
        alone = [await complete(client, served.id, prompt, **options) for prompt in PROMPTS]
        asked = [complete(client, served.id, prompt, **options) for prompt in PROMPTS * 3]
        together = await asyncio.gather(*asked)
    assert alone == expected
    assert together == expected * 3


async def test_a_seed_decides_and_logprobs_and_choices_are_answered(hybrid: str) -> None:
    options: dict[str, Any] = {"max_tokens": 20, "temperature": 0.9, "seed": 4, "logprobs": 2}
    async with AsyncOpenAI(base_url=f"{hybrid}/v1", api_key="none", max_retries=0) as client:
        [served] = (await client.models.list()).data
        first, again = [
            await client.completions.create(model=served.id, prompt="abc", n=3, **options)
            for _ in range(2)
        ]
    assert [it.text for it in first.choices] == [it.text for it in again.choices]
    assert len({it.text for it in first.choices}) > 1
    assert all(it.logprobs for it in first.choices)


def test_the_report_says_that_nothing_is_drafted(hybrid: str) -> None:
    report = httpx.get(f"{hybrid}/v1/speculation/report")
    assert report.status_code == 200
    assert metric(hybrid, "spec_decode_num_draft_tokens_total") == 0
    assert metric(hybrid, "step_errors_total") == 0
