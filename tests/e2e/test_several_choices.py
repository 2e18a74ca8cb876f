"""Logprobs and several choices through the real server, as openai-python sees them."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load
from openai import AsyncOpenAI, RateLimitError

MESSAGES: Any = [{"role": "user", "content": "Repeat: red green blue red green blue red green"}]
PLAIN = {"speculative": {"enabled": False}}


async def test_chat_logprobs_are_mlx_lms_with_and_without_speculation(
    client: AsyncOpenAI, demo_folder: Path
) -> None:
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 24,
        "logprobs": True,
        "top_logprobs": 3,
    }
    answers = [await client.chat.completions.create(**asked, extra_body=it) for it in ({}, PLAIN)]
    model, tokenizer = load(str(demo_folder))
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)
    for answer in answers:
        [choice] = answer.choices
        assert choice.logprobs is not None
        content = choice.logprobs.content or []
        assert b"".join(bytes(it.bytes or []) for it in content).decode() == choice.message.content
        tokens = tokenizer.encode(choice.message.content, add_special_tokens=False)
        scores = model(mx.array([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1].astype(mx.float32)
        expected = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
        for token, told, row in zip(tokens, content, expected, strict=True):
            assert told.logprob == pytest.approx(row[token].item(), abs=1e-3)
            best = sorted(row.tolist(), reverse=True)[:3]
            assert [it.logprob for it in told.top_logprobs] == pytest.approx(best, abs=1e-3)


async def test_streamed_logprobs_are_those_of_the_whole_answer(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": MESSAGES, "logprobs": True, "seed": 1}
    asked |= {"max_tokens": 16, "stop": [" green"]}
    whole = await client.chat.completions.create(**asked)
    assert whole.choices[0].logprobs is not None
    expected = [(it.token, it.logprob) for it in whole.choices[0].logprobs.content or []]
    streamed: list[tuple[str, float]] = []
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            if choice.logprobs is not None:
                streamed += [(it.token, it.logprob) for it in choice.logprobs.content or []]
    assert [token for token, _ in streamed] == [token for token, _ in expected]
    assert [it for _, it in streamed] == pytest.approx([it for _, it in expected], abs=1e-3)
    assert "".join(token for token, _ in expected) == whole.choices[0].message.content


async def test_text_logprobs_are_columns_with_offsets(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model="demo", prompt="One, two, three,", max_tokens=8, temperature=0, logprobs=2
    )
    [choice] = answer.choices
    assert choice.logprobs is not None
    told = choice.logprobs
    assert told.tokens is not None
    assert told.text_offset is not None
    assert told.top_logprobs is not None
    for token, offset, top in zip(told.tokens, told.text_offset, told.top_logprobs, strict=True):
        assert choice.text[offset:].startswith(token)
        assert token in top
        assert sum(math.exp(value) for value in top.values()) <= 1 + 1e-5


async def test_choices_differ_and_repeat_with_their_seed(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "messages": MESSAGES, "seed": 5, "max_tokens": 12}
    first = await client.chat.completions.create(**asked, n=3)
    again = await client.chat.completions.create(**asked, n=3, extra_body=PLAIN)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert [choice.message.content for choice in again.choices] == texts
    alone = await client.chat.completions.create(**asked)
    assert alone.choices[0].message.content == texts[0]
    assert first.usage is not None
    assert alone.usage is not None
    assert first.usage.prompt_tokens == alone.usage.prompt_tokens


async def test_the_best_of_several_are_kept(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "prompt": "The sea is", "seed": 2, "max_tokens": 8}
    every = await client.completions.create(**asked, n=4, logprobs=0)
    means = {}
    for choice in every.choices:
        assert choice.logprobs is not None
        told = choice.logprobs.token_logprobs or []
        means[choice.text] = sum(told) / len(told)
    best = await client.completions.create(**asked, best_of=4, n=2)
    expected = sorted(means, key=lambda text: means[text], reverse=True)[:2]
    assert [choice.text for choice in best.choices] == expected
    assert all(choice.logprobs is None for choice in best.choices)


async def test_more_copies_than_fit_are_refused_as_a_whole(client: AsyncOpenAI) -> None:
    with pytest.raises(RateLimitError):
        await client.chat.completions.create(model="demo", messages=MESSAGES, n=128)
    patient = client.with_options(max_retries=3)
    answer = await patient.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=1)
    assert answer.choices[0].finish_reason == "length"
