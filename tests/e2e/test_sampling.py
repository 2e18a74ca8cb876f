"""Sampling parameters through the real server: what they do; speculation changes nothing."""

from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

QUESTION = [{"role": "user", "content": "Count: one, two, three, one, two, three, one, two,"}]
PLAIN = {"speculative": {"enabled": False}}


async def text_of(client: AsyncOpenAI, **options: Any) -> str:
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 40, **options}
    answer = await client.chat.completions.create(model="demo", messages=QUESTION, **asked)
    return str(answer.choices[0].message.content)


SAMPLINGS: list[dict[str, Any]] = [
    {"frequency_penalty": 1.5},
    {"presence_penalty": 1.0, "temperature": 0.7, "seed": 4},
    {"logit_bias": {"28": -100, "216": 3}},
    {"extra_body": {"repetition_penalty": 1.3}},
    {"extra_body": {"bad_words": ["two", "one"]}},
    {"extra_body": {"min_tokens": 40}},
    {"extra_body": {"allowed_token_ids": [*range(200, 900)]}},
    {"extra_body": {"xtc_probability": 1, "xtc_threshold": 0.05}, "temperature": 0.8, "seed": 1},
]


@pytest.mark.parametrize("options", SAMPLINGS, ids=str)
async def test_speculation_changes_no_text_and_the_parameter_does(
    client: AsyncOpenAI, options: dict[str, Any]
) -> None:
    extra = options.get("extra_body", {})
    drafted = await text_of(client, **options)
    assert drafted == await text_of(client, **{**options, "extra_body": {**extra, **PLAIN}})
    without = {key: options[key] for key in ("temperature", "seed") if key in options}
    assert drafted != await text_of(client, **without)


async def test_a_banned_word_does_not_occur(client: AsyncOpenAI) -> None:
    assert "two" in await text_of(client)
    assert "two" not in await text_of(client, extra_body={"bad_words": ["two"]})


async def test_a_text_is_as_long_as_it_must_be(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=60,
        extra_body={"min_tokens": 60},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logit_bias": {"49152": 1}}, "logit_bias"),
        ({"extra_body": {"allowed_token_ids": [49152]}}, "allowed_token_ids"),
        ({"extra_body": {"stop_token_ids": [49152]}}, "stop_token_ids"),
        ({"extra_body": {"allowed_token_ids": [2], "min_tokens": 3}}, "allowed_token_ids"),
    ],
)
async def test_tokens_the_model_does_not_have_are_named(
    client: AsyncOpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        await text_of(client, **options)
    assert refused.value.param == param


async def test_an_echoed_prompt_is_told_how_likely_it_was(client: AsyncOpenAI) -> None:
    text = "The capital of France is Paris."
    asked: dict[str, Any] = {"model": "demo", "prompt": text, "echo": True, "logprobs": 2}
    [read] = (await client.completions.create(**asked, max_tokens=0)).choices
    assert (read.text, read.finish_reason) == (text, "length")
    told = read.logprobs
    assert told is not None
    assert "".join(told.tokens or []) == text
    first, *others = told.token_logprobs or []
    assert first is None
    assert all(logprob < 0 for logprob in others)
    paris = (told.tokens or []).index(" Paris")
    assert others[paris - 1] > -2
    assert (told.text_offset or [])[paris] == text.index(" Paris")
    [answered] = (await client.completions.create(**asked, max_tokens=4, temperature=0)).choices
    assert answered.text.startswith(text)
    assert answered.logprobs is not None
    both = (answered.logprobs.token_logprobs or [])[1 : len(others) + 1]
    assert both == pytest.approx(others, abs=1e-3)
