"""Anthropic's own client against the real server."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic import AsyncAnthropic, BadRequestError, NotFoundError

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."


@pytest.fixture
async def anthropic(server: str) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=server, api_key="none", max_retries=0) as connected:
        yield connected


def asked(**fields: Any) -> dict[str, Any]:
    greedy = {"extra_body": {"temperature": 0}}
    return {"model": "demo", "max_tokens": 20, "messages": FRANCE, **greedy, **fields}


async def test_a_message_is_answered_whole_and_counted(anthropic: AsyncAnthropic) -> None:
    answer = await anthropic.messages.create(**asked())
    assert [block.text for block in answer.content] == [PARIS]
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens == 8
    counted = await anthropic.messages.count_tokens(model="demo", messages=FRANCE)
    read = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == read, "whatever was cached by other tests"


async def test_the_sdk_gathers_the_same_message_from_the_stream(anthropic: AsyncAnthropic) -> None:
    async with anthropic.messages.stream(**asked()) as stream:
        text = "".join([text async for text in stream.text_stream])
        message = await stream.get_final_message()
    assert text == message.content[0].text == PARIS
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 8


async def test_a_stop_sequence_is_named(anthropic: AsyncAnthropic) -> None:
    answer = await anthropic.messages.create(**asked(stop_sequences=["never", " Paris"]))
    assert answer.content[0].text == "The capital of France is"
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " Paris")


async def test_models_and_refusals_are_what_the_sdk_expects(anthropic: AsyncAnthropic) -> None:
    assert [model.id async for model in anthropic.models.list()] == ["demo"]
    with pytest.raises(NotFoundError, match="use one of demo"):
        await anthropic.messages.create(**asked(model="other"))
    image: Any = {"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}
    with pytest.raises(BadRequestError, match="type image is not supported"):
        await anthropic.messages.create(**asked(messages=[{"role": "user", "content": [image]}]))
