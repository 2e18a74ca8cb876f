"""The demo model with a draft model, over HTTP: the same texts, drafts of both kinds."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from openai import AsyncOpenAI

from chats import COPY, PLAIN, QUESTIONS, metric, text_of
from server_process import started


@pytest.fixture(scope="module")
def drafted(short_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("drafted") / "log"
    with started(log, "demo", "--draft-model", short_model) as url:
        yield url


@pytest.mark.parametrize("temperature", [0, 0.8])
async def test_texts_are_those_of_plain_decoding(drafted: str, temperature: float) -> None:
    options = {"temperature": temperature, "seed": 3, "max_tokens": 40}
    async with AsyncOpenAI(base_url=f"{drafted}/v1", api_key="none", max_retries=0) as client:
        plain = [await text_of(client, it, extra_body=PLAIN, **options) for it in QUESTIONS]
        together = await asyncio.gather(*(text_of(client, it, **options) for it in QUESTIONS))
    assert together == plain


async def test_the_model_drafts_and_so_does_the_text(drafted: str) -> None:
    def by_model() -> float:
        return metric(drafted, 'spec_decode_drafter_tokens_proposed_total{drafter="draft_model"}')

    async with AsyncOpenAI(base_url=f"{drafted}/v1", api_key="none", max_retries=0) as client:
        await text_of(client, COPY, max_tokens=60)
        # Where it does not pay, one request in sixteen still tries it.
        for at in range(32):
            if by_model() > 0:
                break
            await text_of(client, QUESTIONS[at % len(QUESTIONS)], max_tokens=60)
    assert 0 < by_model() < metric(drafted, "spec_decode_num_draft_tokens_total")
    assert metric(drafted, "step_errors_total") == 0


def with_other_ids(model: Path, copy: Path) -> Path:
    """The same model, whose tokens are numbered from the other end."""
    shutil.copytree(model, copy)
    path = copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    last = len(vocab) - 1
    tokenizer["model"]["vocab"] = {token: last - at for token, at in vocab.items()}
    for added in tokenizer["added_tokens"]:
        added["id"] = last - added["id"]
    path.write_text(json.dumps(tokenizer))
    weights = mx.load(str(copy / "model.safetensors"))
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][::-1]
    mx.save_safetensors(str(copy / "model.safetensors"), weights, metadata={"format": "mlx"})
    return copy


async def test_a_model_with_other_ids_drafts_and_changes_no_text(
    short_model: Path, tmp_path: Path
) -> None:
    other = with_other_ids(short_model, tmp_path / "other")
    options = {"temperature": 0.8, "seed": 5, "max_tokens": 60}
    whole = {"ignore_eos": True}
    proposed = 'spec_decode_drafter_tokens_proposed_total{drafter="draft_model"}'
    with started(tmp_path / "log", "demo", "--draft-model", other) as url:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            asked = QUESTIONS[3:6]
            plain = [await text_of(client, it, extra_body=PLAIN | whole, **options) for it in asked]
            running = [text_of(client, it, extra_body=whole, **options) for it in 2 * asked]
            assert await asyncio.gather(*running) == 2 * plain
            # Where it does not pay, one request in sixteen still tries it.
            for at in range(32):
                if metric(url, proposed) > 0:
                    break
                which = at % len(asked)
                alone = await text_of(client, asked[which], extra_body=whole, **options)
                assert alone == plain[which]
        assert metric(url, proposed) > 0
        assert metric(url, "step_errors_total") == 0


def test_a_model_of_other_words_is_refused_in_one_line(short_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(short_model, other)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = {token: at for token, at in tokenizer["model"]["vocab"].items() if len(token) == 1}
    tokenizer["model"] |= {"vocab": vocab, "merges": []}
    path.write_text(json.dumps(tokenizer))
    command = [sys.executable, "-m", "mlxspec", "serve", "demo", "--draft-model", str(other)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "other cannot draft for" in refused.stderr
    assert "of ordinary text" in refused.stderr
