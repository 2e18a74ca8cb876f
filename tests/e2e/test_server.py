"""What a client of the real server sees: texts, frames, counts, errors, and freed memory."""

import asyncio
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError

from chats import COPY, PLAIN, QUESTIONS, ask, metric, text_of


async def until_idle(server: str) -> None:
    """All rows and blocks are free again, or cached, within two seconds."""
    deadline = time.monotonic() + 2
    while metric(server, "requests_running") or (
        metric(server, "kv_blocks_used") > metric(server, "kv_blocks_cached")
    ):
        assert time.monotonic() < deadline, "rows or blocks are still held"
        await asyncio.sleep(0.02)


def mlx_lm_greedy(folder: Path, question: str, max_tokens: int) -> str:
    model, tokenizer = load(str(folder))
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    tokens = []
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=max_tokens):
        if token in tokenizer.eos_token_ids:
            break
        tokens.append(int(token))
    return str(tokenizer.decode(tokens))


@pytest.mark.parametrize("question", [QUESTIONS[0], COPY])
async def test_greedy_text_is_mlx_lms_own_with_and_without_speculation(
    client: AsyncOpenAI, demo_folder: Path, question: str
) -> None:
    expected = mlx_lm_greedy(demo_folder, question, 40)
    assert await text_of(client, question, max_tokens=40, extra_body=PLAIN) == expected
    assert await text_of(client, question, max_tokens=40) == expected


async def test_copying_is_sped_up_and_says_so(client: AsyncOpenAI) -> None:
    answer = await ask(client, COPY, max_tokens=60)
    speculation = answer.model_extra["metrics"]["speculative_decoding"]
    assert speculation["num_accepted_draft_tokens"] > 20
    histogram = speculation["acceptance_histogram"]
    assert sum(histogram) == speculation["num_spec_steps"]
    assert (
        sum(kept * steps for kept, steps in enumerate(histogram))
        == speculation["num_accepted_draft_tokens"]
    )
    assert len(histogram) == speculation["num_spec_tokens"] + 1
    plain = await ask(client, COPY, max_tokens=60, extra_body=PLAIN)
    assert plain.model_extra["metrics"]["speculative_decoding"] is None
    assert plain.choices[0].message.content == answer.choices[0].message.content


async def test_a_ragged_batch_of_eight_gets_what_each_gets_alone(client: AsyncOpenAI) -> None:
    options = [
        {"max_tokens": 8 + 4 * at, "temperature": 0.7 if at % 2 else 0.0, "seed": at}
        for at in range(8)
    ]
    asked = list(zip(QUESTIONS, options, strict=True))
    alone = [await text_of(client, q, extra_body=PLAIN, **o) for q, o in asked]

    async def late(at: int, question: str, chosen: dict[str, Any]) -> str:
        await asyncio.sleep(0.15 * at)
        return await text_of(client, question, **chosen)

    together = await asyncio.gather(*(late(at, q, o) for at, (q, o) in enumerate(asked)))
    assert together == alone


async def test_sixteen_clients_stream_while_one_walks_away(
    client: AsyncOpenAI, server: str
) -> None:
    alone = await text_of(client, QUESTIONS[1])
    aborted = metric(server, "requests_aborted_total")

    async def stream(at: int) -> str:
        question = QUESTIONS[1] if at else "Count to one hundred."
        chunks = await ask(client, question, stream=True, max_tokens=20 if at else 400)
        text = ""
        async for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            if at == 0 and text:
                await chunks.close()
                break
        return text

    texts = await asyncio.gather(*(stream(at) for at in range(16)))
    assert texts[1:] == [alone] * 15
    await until_idle(server)
    assert metric(server, "requests_aborted_total") == aborted + 1


async def test_a_unary_client_that_hangs_up_frees_its_row(client: AsyncOpenAI, server: str) -> None:
    with pytest.raises(Exception, match="timed out"):
        await ask(client, "Count to one thousand.", max_tokens=2000, timeout=1.0)
    await until_idle(server)


async def test_frames_come_in_openais_order(client: AsyncOpenAI) -> None:
    chunks = [
        chunk
        async for chunk in await ask(
            client, QUESTIONS[0], stream=True, stream_options={"include_usage": True}
        )
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == "The capital of France is Paris."
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_next_turn_of_a_chat_reuses_all_that_was_said(client: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "Answer in one short sentence. " * 20}]
    known = 0
    for question in QUESTIONS[:3]:
        messages.append({"role": "user", "content": question})
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="demo",
                messages=messages,
                temperature=0,
                max_tokens=24,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        # What the template puts around an answer may cost its last tokens.
        assert usage.prompt_tokens_details.cached_tokens >= known - 3
        known = usage.prompt_tokens + usage.completion_tokens
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        messages.append({"role": "assistant", "content": text})
    assert known > 150


async def test_a_salt_keeps_prompts_apart(client: AsyncOpenAI) -> None:
    question = "Which river flows through Cairo, and which through London and through Paris?"

    async def cached(salt: str) -> int:
        answer = await ask(client, question, extra_body={"cache_salt": salt})
        return int(answer.usage.prompt_tokens_details.cached_tokens)

    assert [await cached(salt) > 0 for salt in ("a", "b", "a", "b")] == [False, False, True, True]


async def test_a_stop_string_ends_the_text_before_itself_across_token_borders(
    client: AsyncOpenAI,
) -> None:
    whole = await text_of(client, QUESTIONS[0])
    answer = await ask(client, QUESTIONS[0], stop=["ance is P"])
    assert answer.choices[0].message.content == whole.partition("ance is P")[0]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 8


async def test_plain_completions_continue_the_text(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model="demo", prompt="The capital of France is", max_tokens=3, temperature=0
    )
    assert "Paris" in answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_refusals_name_the_way_out(client: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError) as unknown:
        await client.chat.completions.create(
            model="other", messages=[{"role": "user", "content": "hi"}]
        )
    assert unknown.value.code == "model_not_found"
    assert "demo" in unknown.value.message
    with pytest.raises(BadRequestError) as too_long:
        await ask(client, "word " * 9000)
    assert too_long.value.code == "context_length_exceeded"
    assert "8192" in too_long.value.message


async def test_a_full_queue_says_when_to_come_back_and_recovers(
    client: AsyncOpenAI, server: str
) -> None:
    answers = await asyncio.gather(
        *(ask(client, f"Count from {at}.", max_tokens=6) for at in range(40)),
        return_exceptions=True,
    )
    refused = [it for it in answers if isinstance(it, APIStatusError)]
    served = [it for it in answers if not isinstance(it, BaseException)]
    assert len(served) >= 24
    assert len(served) + len(refused) == 40
    assert refused, "nothing was refused"
    for error in refused:
        assert error.status_code == 429
        assert int(error.response.headers["retry-after"]) >= 1
        assert set(error.response.json()["error"]) == {"message", "type", "param", "code"}
    await until_idle(server)
