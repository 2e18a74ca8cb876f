"""Ollama's own client against the real server, through every verb."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ollama import AsyncClient, ResponseError

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
GREEDY = {"temperature": 0, "num_predict": 20}


@pytest.fixture
async def ollama(server: str) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(host=server)
    yield client
    await client.close()


async def test_chat_whole_and_streamed_is_the_same_text(ollama: AsyncClient) -> None:
    whole = await ollama.chat("demo", FRANCE, options=GREEDY)
    assert whole.message.content == PARIS
    parts = [part async for part in await ollama.chat("demo", FRANCE, options=GREEDY, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == PARIS
    last = parts[-1]
    assert (last.done, last.done_reason, last.eval_count) == (True, "stop", 8)
    assert last.prompt_eval_count == whole.prompt_eval_count


async def test_durations_are_measured_and_fit_into_the_whole(ollama: AsyncClient) -> None:
    whole = await ollama.generate("demo", FRANCE[0]["content"], options=GREEDY)
    assert whole.response == PARIS
    parts = (whole.load_duration, whole.prompt_eval_duration, whole.eval_duration)
    assert all(part is not None and part > 0 for part in parts)
    assert sum(part or 0 for part in parts) <= (whole.total_duration or 0)


async def test_raw_prompts_and_limits(ollama: AsyncClient) -> None:
    options = {"temperature": 0, "num_predict": 3}
    answer = await ollama.generate("demo", "The capital of France is", raw=True, options=options)
    assert "Paris" in answer.response
    assert (answer.done_reason, answer.eval_count) == ("length", 3)


async def test_drafting_can_be_turned_off_and_changes_no_token(ollama: AsyncClient) -> None:
    prompt = "Repeat: one two three four, one two three four, one two three four."
    options: dict[str, Any] = {"temperature": 0, "num_predict": 40}
    drafted = await ollama.generate("demo", prompt, options=options)
    plain = await ollama.generate("demo", prompt, options={**options, "draft_num_predict": 0})
    assert plain.response == drafted.response


async def test_models_are_listed_shown_and_pulled(ollama: AsyncClient) -> None:
    assert [model.model for model in (await ollama.list()).models] == ["demo"]
    [running] = (await ollama.ps()).models
    assert (running.model, running.context_length) == ("demo", 8192)
    shown = await ollama.show("demo")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.capabilities is not None
    assert "completion" in shown.capabilities
    assert "messages" in (shown.template or "")
    assert (await ollama.pull("demo")).status == "success"
    assert [step.status async for step in await ollama.pull("demo", stream=True)][-1] == "success"


async def test_texts_are_embedded(ollama: AsyncClient) -> None:
    found = await ollama.embed("demo", ["a cat", "a dog"], keep_alive="5m")
    assert [len(vector) for vector in found.embeddings] == [576, 576]
    assert (found.total_duration or 0) > 0
    [same] = (await ollama.embed("demo", "a cat")).embeddings
    assert same == pytest.approx(found.embeddings[0], abs=1e-4)


async def test_refusals_are_the_clients_own_errors(ollama: AsyncClient) -> None:
    with pytest.raises(ResponseError, match="use one of demo") as unknown:
        await ollama.chat("other", FRANCE)
    assert unknown.value.status_code == 404
    for refused in (
        ollama.create("new", from_="demo"),
        ollama.copy("demo", "new"),
        ollama.push("demo"),
        ollama.delete("demo"),
    ):
        with pytest.raises(ResponseError) as missing:
            await refused
        assert missing.value.status_code == 501
