"""OpenAI's Responses on a really started server."""

import pytest
from openai import AsyncOpenAI, NotFoundError

QUESTION = "What is the capital of France?"


async def test_a_response_is_what_a_chat_answers_and_can_be_continued(
    client: AsyncOpenAI,
) -> None:
    first = await client.responses.create(model="demo", input=QUESTION, temperature=0)
    assert first.output_text == "The capital of France is Paris."
    assert first.usage is not None
    assert first.usage.output_tokens == 8
    second = await client.responses.create(
        model="demo",
        input="Say it again.",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=8,
    )
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.total_tokens
    assert (await client.responses.retrieve(first.id)).output_text == first.output_text
    await client.responses.delete(first.id)
    with pytest.raises(NotFoundError) as gone:
        await client.responses.retrieve(first.id)
    assert gone.value.code == "response_not_found"


async def test_a_streamed_response_is_the_same(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="demo", input=QUESTION, temperature=0) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.output_text == "The capital of France is Paris."
    assert events[-1].type == "response.completed"


async def test_input_tokens_are_those_that_a_response_reads(client: AsyncOpenAI) -> None:
    counted = await client.responses.input_tokens.count(model="demo", input=QUESTION)
    answered = await client.responses.create(model="demo", input=QUESTION, max_output_tokens=1)
    assert answered.usage is not None
    assert counted.input_tokens == answered.usage.input_tokens
