"""Embeddings and rankings in every dialect: what is asked, what is answered, what is refused."""

import asyncio
import base64
import struct
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import Peer

from mlxspec.api.reading import MAX_TEXTS
from mlxspec.engine.request import EmbeddingRequest, RerankRequest
from mlxspec.errors import QueueFullError

EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"


def asked(engine: FakeEngine) -> EmbeddingRequest:
    [request] = engine.read
    assert isinstance(request, EmbeddingRequest)
    return request


@pytest.mark.parametrize(
    ("sent", "texts"),
    [
        ("one", ["one"]),
        (["one", "three"], ["one", "three"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_text_or_many_as_text_or_as_ids_get_a_vector_each(
    client: TestClient[Any], engine: FakeEngine, sent: Any, texts: list[Any]
) -> None:
    answer = client.post(EMBEDDINGS, json={"model": "demo", "input": sent}).json()
    num_tokens = sum(map(len, texts))
    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": [len(text), at, 0.5]}
            for at, text in enumerate(texts)
        ],
        "model": "demo",
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    assert asked(engine).inputs == texts


def test_base64_is_of_little_endian_floats(client: TestClient[Any]) -> None:
    body = {"model": "demo", "input": "four", "encoding_format": "base64"}
    [embedding] = client.post(EMBEDDINGS, json=body).json()["data"]
    assert struct.unpack("<3f", base64.b64decode(embedding["embedding"])) == (4.0, 0.0, 0.5)


def test_what_a_client_chooses_reaches_the_engine(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    body = {"dimensions": 2, "pooling": "last", "truncate": True, "service_tier": "flex", "user": 7}
    headers = {"x-request-timeout-ms": "1500"}
    client.post(EMBEDDINGS, json={"model": "demo", "input": "hi", **body}, headers=headers)
    request = asked(engine)
    assert (request.dimensions, request.pooling, request.truncate) == (2, "last", True)
    assert (request.priority, request.timeout_seconds) == (6, 1.5)
    assert request.normalise


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": ["a", ""]}, 400, "input"),
        ({"input": ["a", 1]}, 400, "input"),
        ({"input": [["a"], [1]]}, 400, None),
        ({"input": [[1], []]}, 400, "input"),
        ({"input": ["a"] * (MAX_TEXTS + 1)}, 400, "input"),
        ({"input": "a", "dimensions": 0}, 400, None),
        ({"input": "a", "encoding_format": "text"}, 400, None),
        ({"input": "a", "model": "nobody"}, 404, "model"),
    ],
)
def test_impossible_bodies_are_refused_by_their_field(
    client: TestClient[Any],
    engine: FakeEngine,
    body: dict[str, Any],
    status: int,
    param: str | None,
) -> None:
    answer = client.post(EMBEDDINGS, json={"model": "demo", **body})
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param or param is None
    assert engine.read == []


def test_a_full_queue_says_when_to_come_back(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.refusal = QueueFullError("full", retry_after=7)
    answer = client.post(EMBEDDINGS, json={"model": "demo", "input": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, {"model": "demo", "input": ["a"] * 9}),
        (RERANK, {"model": "demo", "query": "q", "documents": ["a"]}),
        ("/api/embed", {"model": "demo", "input": "a"}),
        ("/embedding", {"model": "demo", "content": "a"}),
    ],
)
async def test_who_leaves_gives_up_all_texts(
    app: Litestar, engine: FakeEngine, path: str, body: dict[str, Any]
) -> None:
    engine.reading.clear()
    peer = Peer(app, path, body)
    running = asyncio.create_task(peer.run())
    await engine.asked.wait()
    peer.leave()
    await running
    assert engine.reads_given_up == 1


def test_documents_come_best_first(client: TestClient[Any], engine: FakeEngine) -> None:
    documents = ["two", {"text": "seven"}, "a"]
    body = {"model": "demo", "query": "q", "documents": documents, "return_documents": True}
    answer = client.post(RERANK, json=body).json()
    assert answer["results"] == [
        {"index": 1, "relevance_score": 0.5, "document": {"text": "seven"}},
        {"index": 0, "relevance_score": 0.3, "document": {"text": "two"}},
        {"index": 2, "relevance_score": 0.1, "document": {"text": "a"}},
    ]
    assert answer["scored_by"] == "cosine"
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    [request] = engine.read
    assert isinstance(request, RerankRequest)
    assert (request.query, request.documents) == ("q", ["two", "seven", "a"])


def test_only_so_many_documents_and_without_their_texts(client: TestClient[Any]) -> None:
    body = {"model": "demo", "query": "q", "documents": ["a", "bb", "ccc"], "top_n": 2}
    results = client.post("/rerank", json=body).json()["results"]
    assert results == [
        {"index": 2, "relevance_score": 0.3},
        {"index": 1, "relevance_score": 0.2},
    ]


@pytest.mark.parametrize(
    "body",
    [{"query": "", "documents": ["a"]}, {"query": "q", "documents": []}, {"documents": ["a"]}],
)
def test_a_ranking_of_nothing_is_refused(client: TestClient[Any], body: dict[str, Any]) -> None:
    assert client.post(RERANK, json={"model": "demo", **body}).status_code == 400


def test_ollama_embeds_a_text_or_many(client: TestClient[Any], engine: FakeEngine) -> None:
    body = {"model": "demo:latest", "input": ["a", "bb"], "dimensions": 2, "keep_alive": "5m"}
    answer = client.post("/api/embed", json=body).json()
    assert 0 <= answer.pop("load_duration") < answer.pop("total_duration")
    assert answer == {
        "model": "demo:latest",
        "embeddings": [[1.0, 0.0], [2.0, 1.0]],
        "prompt_eval_count": 3,
    }
    request = asked(engine)
    assert (request.model, request.truncate, request.keep_alive) == ("demo", True, 300)
    engine.read.clear()
    client.post("/api/embed", json={"model": "demo", "input": "a", "truncate": False})
    assert not asked(engine).truncate


def test_ollama_is_told_how_long_the_model_took_to_come(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.states["demo"] = "absent"
    load = engine.load

    async def slow(name: str, keep_alive: float | None = None) -> Any:
        await asyncio.sleep(0.05)
        return await load(name, keep_alive)

    engine.load = slow  # type: ignore[method-assign]
    body = {"model": "demo", "input": "a", "keep_alive": 0}
    answer = client.post("/api/embed", json=body).json()
    assert 0.05e9 <= answer["load_duration"] <= answer["total_duration"]
    assert "load demo for None" in engine.log, "it stays for the texts"
    assert asked(engine).keep_alive == 0


def test_ollamas_elder_route_embeds_one_text(client: TestClient[Any]) -> None:
    answer = client.post("/api/embeddings", json={"model": "demo", "prompt": "abc"})
    assert answer.json() == {"embedding": [3.0, 0.0, 0.5]}


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/api/embed", {"input": ""}, []),
        ("/api/embed", {"input": []}, []),
        ("/api/embeddings", {"prompt": ""}, []),
    ],
)
def test_without_a_text_ollama_loads_the_model_or_lets_it_go(
    client: TestClient[Any], engine: FakeEngine, path: str, body: dict[str, Any], answer: list[Any]
) -> None:
    loaded = client.post(path, json={"model": "demo", **body, "keep_alive": 60})
    assert answer in (loaded.json().get("embeddings"), loaded.json().get("embedding"))
    client.post(path, json={"model": "demo", **body, "keep_alive": 0})
    assert [it for it in engine.log if "load" in it] == ["load demo for 60.0", "unload demo"]


def test_llama_cpps_vectors_lie_in_lists_and_may_stay_as_long_as_they_are(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    answer = client.post("/embedding", json={"model": "demo", "content": ["a", "bb"]})
    assert answer.json() == [
        {"index": 0, "embedding": [[1.0, 0.0, 0.5]]},
        {"index": 1, "embedding": [[2.0, 1.0, 0.5]]},
    ]
    assert asked(engine).normalise
    engine.read.clear()
    client.post("/embeddings", json={"model": "demo", "input": "a", "embd_normalize": -1})
    assert not asked(engine).normalise
    assert client.post("/embedding", json={"model": "demo"}).status_code == 400
