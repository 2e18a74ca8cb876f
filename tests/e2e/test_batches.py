"""A batch through openai-python: a file in, files out, the answers those of single requests."""

import asyncio
import json
from typing import Any

from openai import AsyncOpenAI


def line(custom_id: str, **fields: Any) -> bytes:
    body = {"model": "demo", "max_tokens": 12, "temperature": 0, **fields}
    request = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps({"custom_id": custom_id, **request}).encode() + b"\n"


def question(place: str) -> Any:
    return [{"role": "user", "content": f"Name a town in {place}."}]


async def test_a_batch_answers_as_single_requests_do(client: AsyncOpenAI) -> None:
    places = ("France", "Italy", "Spain")
    content = b"".join(line(place, messages=question(place)) for place in places)
    content += line("wrong", messages=[])
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    for _ in range(300):
        batch = await client.batches.retrieve(batch.id)
        if batch.status == "completed":
            break
        await asyncio.sleep(0.2)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 1)
    assert batch.output_file_id is not None
    text = (await client.files.content(batch.output_file_id)).text
    answers = {it["custom_id"]: it["response"]["body"] for it in map(json.loads, text.splitlines())}
    assert answers.keys() == {*places}
    alone = await client.chat.completions.create(
        model="demo", messages=question("France"), max_tokens=12, temperature=0
    )
    told = answers["France"]["choices"][0]["message"]["content"]
    assert told == alone.choices[0].message.content
    assert [listed.id async for listed in await client.batches.list()] == [batch.id]
    await client.files.delete(file.id)
