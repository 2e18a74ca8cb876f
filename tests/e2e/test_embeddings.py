"""Embeddings and rankings of the real models, by clients' own libraries, over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ollama import AsyncClient
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from mlxspec.model.minilm import pull_minilm
from server_process import started

SENTENCES = ["The cat sits outside", "A man is playing guitar", "The new movie is awesome"]
FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def both(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server of the demo model and the embedding model."""
    pull_minilm()
    with started(tmp_path_factory.mktemp("both") / "log", "demo", "minilm") as url:
        yield url


@pytest.fixture
async def client(both: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{both}/v1", api_key="none", max_retries=0) as connected:
        yield connected


@pytest.fixture
async def ollama(both: str) -> AsyncIterator[AsyncClient]:
    connected = AsyncClient(host=both)
    yield connected
    await connected.close()


async def test_vectors_are_those_that_the_models_authors_publish(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="minilm", input=SENTENCES)
    vectors = np.array([it.embedding for it in answer.data])
    assert vectors.shape == (3, 384)
    # Sentence-transformers' documentation gives these two of its cosine similarities.
    assert vectors[0] @ vectors[1] == pytest.approx(0.0363, abs=1e-4)
    assert vectors[0] @ vectors[2] == pytest.approx(-0.0247, abs=1e-4)
    assert answer.usage.prompt_tokens == 6 + 7 + 7
    plain = await client.embeddings.create(
        model="minilm", input=SENTENCES[0], encoding_format="float"
    )
    np.testing.assert_allclose(plain.data[0].embedding, vectors[0], atol=1e-5)


async def test_the_demo_model_embeds_beside_its_answers(client: AsyncOpenAI) -> None:
    async def ask() -> str | None:
        answer = await client.chat.completions.create(
            model="demo", messages=FRANCE, temperature=0, max_tokens=20
        )
        return answer.choices[0].message.content

    texts = [f"{sentence}, number {at}." for at in range(20) for sentence in SENTENCES]
    said, embedded, others = await asyncio.gather(
        ask(),
        client.embeddings.create(model="demo", input=texts),
        client.embeddings.create(model="minilm", input=texts),
    )
    assert said == "The capital of France is Paris."
    assert [len(it.embedding) for it in embedded.data] == [576] * 60
    assert [it.index for it in others.data] == list(range(60))
    alone = await client.embeddings.create(model="demo", input=texts[7])
    np.testing.assert_allclose(alone.data[0].embedding, embedded.data[7].embedding, atol=1e-4)


async def test_what_cannot_be_is_refused(client: AsyncOpenAI) -> None:
    create = client.embeddings.create
    with pytest.raises(NotFoundError):
        await create(model="nobody", input="a")
    with pytest.raises(BadRequestError, match="the model reads 256"):
        await create(model="minilm", input="word " * 300)
    with pytest.raises(BadRequestError, match="vectors have 384"):
        await create(model="minilm", input="a", dimensions=400)
    with pytest.raises(BadRequestError, match="generates no text"):
        await client.chat.completions.create(model="minilm", messages=FRANCE)
    short = await create(model="minilm", input="a", dimensions=40)
    assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1, abs=1e-5)


async def test_ollamas_client_embeds(ollama: AsyncClient) -> None:
    found = await ollama.embed("minilm", SENTENCES, dimensions=100)
    assert [len(vector) for vector in found.embeddings] == [100] * 3
    assert (found.prompt_eval_count, found.model) == (20, "minilm")
    cut = await ollama.embed("minilm", "word " * 300)
    assert cut.prompt_eval_count == 256
    elder = await ollama.embeddings("minilm", SENTENCES[0])
    assert len(elder.embedding) == 384
    assert (await ollama.show("minilm")).capabilities == ["embedding"]
    assert "embedding" in ((await ollama.show("demo")).capabilities or [])


def test_the_document_that_answers_the_query_comes_first(both: str) -> None:
    documents = ["Paris is the capital of France.", "Cats are pets.", "It rains in London."]
    body = {"model": "minilm", "query": "Which animals live with us?", "documents": documents}
    answer = httpx.post(f"{both}/v1/rerank", json=body, timeout=60).json()
    assert answer["results"][0]["index"] == 1
    assert answer["scored_by"] == "cosine"
