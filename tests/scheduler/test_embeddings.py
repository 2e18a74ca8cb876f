"""Texts become vectors: those that the model alone computes, in any company, and harm nobody."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from resident import running, states, text, until

from mlxspec.config import (
    Config,
    KVConfig,
    LimitsConfig,
    MemoryConfig,
    SchedulerConfig,
    SpeculationConfig,
)
from mlxspec.engine.engine import Engine
from mlxspec.engine.model_facts import DeviceShape
from mlxspec.engine.request import EmbeddingRequest, RerankRequest
from mlxspec.errors import (
    BadRequestError,
    ContextLengthError,
    DeadlineError,
    EngineError,
    MlxspecError,
    QueueFullError,
    UnavailableError,
)
from mlxspec.model.weights import weight_bytes
from mlxspec.model_tables import ModelConfig
from mlxspec.speculative.encoder_target import EncoderTarget
from tiny_architectures import save_architecture
from tiny_encoder import CLS, SCORER, SEP, pooled, save_encoder, score
from tiny_models import LETTERS, save_model_with_tokenizer, save_tokenizer

pytestmark = pytest.mark.usefixtures("drafts_look_free")

LONGEST = 60


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model_with_tokenizer(tmp_path_factory.mktemp("chat") / "chat", "llama", 3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "encoder", seed=5)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("scorer") / "scorer", seed=6, **SCORER)


def config(*folders: Path, **parts: Any) -> Config:
    defaults: dict[str, Any] = {
        "kv": KVConfig(memory_bytes=8 << 20),
        "speculation": SpeculationConfig(keep_costs=False),
    }
    models = tuple(ModelConfig(id=it.name, source=str(it)) for it in folders)
    return Config(models=models, **{**defaults, **parts})


@pytest.fixture
async def engine(
    layout: DeviceShape, chat_model: Path, encoder: Path, scorer: Path
) -> AsyncIterator[Engine]:
    """An engine of all three kinds of model, in both layouts."""
    async with running(config(chat_model, encoder, scorer)) as engine:
        await until(engine.ready)
        yield engine


def random_texts(count: int, longest: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(LETTERS, k=rng.randint(1, longest))) for _ in range(count)]


def tokens_of(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


async def vectors(engine: Engine, model: str, texts: list[Any], **options: Any) -> np.ndarray:
    embedded = await engine.embed(EmbeddingRequest(model=model, inputs=texts, **options))
    assert all(vector.dtype == np.float32 for vector in embedded.vectors)
    return np.stack(embedded.vectors)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
async def test_an_encoders_vectors_are_berts_alone_and_among_many(
    engine: Engine, encoder: Path, pooling: Any
) -> None:
    texts = random_texts(40, LONGEST - 2)
    expected = [pooled(encoder, [CLS, *tokens_of(it), SEP], pooling) for it in texts]
    together = await vectors(engine, "encoder", texts, pooling=pooling)
    np.testing.assert_allclose(together, expected, atol=2e-5)
    alone = await vectors(engine, "encoder", texts[:1], pooling=pooling)
    np.testing.assert_allclose(alone[0], together[0], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
async def test_a_generative_models_vectors_are_mlx_lms_hidden_states_pooled(
    engine: Engine, chat_model: Path, pooling: Any
) -> None:
    texts = random_texts(40, 200, seed=2)
    model, _ = load_model(chat_model)
    expected = []
    for it in texts:
        hidden = model.model(mx.array([tokens_of(it)]))[0]
        vector = np.array(hidden.mean(axis=0) if pooling == "mean" else hidden[-1])
        expected.append(vector / np.linalg.norm(vector))
    found = await vectors(engine, "chat", texts, pooling=pooling)
    np.testing.assert_allclose(found, expected, atol=2e-4)


async def test_answers_beside_embeddings_are_those_without_them(engine: Engine) -> None:
    alone = await text(engine, "chat", max_tokens=100)
    texts = random_texts(60, 200, seed=4)
    [embedded, *said] = await asyncio.gather(
        vectors(engine, "chat", texts), *(text(engine, "chat", max_tokens=100) for _ in range(4))
    )
    assert said == [alone] * 4
    again = await vectors(engine, "chat", texts[:5])
    np.testing.assert_allclose(again, embedded[:5], atol=1e-5)


async def test_texts_that_were_answered_are_read_again_for_their_vectors(engine: Engine) -> None:
    [before] = await vectors(engine, "chat", ["abc abc abc"])
    await text(engine, "chat", max_tokens=60)
    [after] = await vectors(engine, "chat", ["abc abc abc"])
    np.testing.assert_allclose(after, before, atol=1e-5)


async def test_token_ids_are_embedded_as_they_are(engine: Engine, encoder: Path) -> None:
    [ids] = await vectors(engine, "encoder", [[CLS, 0, 1, SEP]])
    [one] = await vectors(engine, "encoder", [[7]])
    np.testing.assert_allclose(ids, (await vectors(engine, "encoder", ["ab"]))[0], atol=1e-5)
    np.testing.assert_allclose(one, pooled(encoder, [7]), atol=2e-5)
    with pytest.raises(BadRequestError, match="token 48 is not in the vocabulary"):
        await vectors(engine, "encoder", [[48]])


async def test_vectors_are_cut_and_of_length_1_unless_they_are_wanted_as_they_are(
    engine: Engine, encoder: Path
) -> None:
    [whole] = await vectors(engine, "encoder", ["abc"], normalise=False)
    assert abs(np.linalg.norm(whole) - 1) > 0.1
    [cut] = await vectors(engine, "encoder", ["abc"], dimensions=8)
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-5)
    with pytest.raises(BadRequestError, match="dimensions is 33, the model's vectors have 32"):
        await vectors(engine, "encoder", ["abc"], dimensions=33)


async def test_a_text_that_is_too_long_is_refused_or_cut(engine: Engine, encoder: Path) -> None:
    long = "ab" * 40
    with pytest.raises(ContextLengthError, match="input 1 has 82 tokens, the model reads 60"):
        await vectors(engine, "encoder", ["ab", long])
    [cut] = await vectors(engine, "encoder", [long], truncate=True)
    expected = pooled(encoder, [CLS, *tokens_of(long)[: LONGEST - 2], SEP])
    np.testing.assert_allclose(cut, expected, atol=2e-5)
    whole = "ab" * 512
    await vectors(engine, "chat", [whole])
    with pytest.raises(ContextLengthError, match="1025 tokens, the model reads 1024"):
        await vectors(engine, "chat", [whole + "a"])


async def test_each_kind_of_model_refuses_what_it_is_not_for(engine: Engine) -> None:
    with pytest.raises(BadRequestError, match="generates no text: it is for embedding"):
        await text(engine, "encoder")
    with pytest.raises(BadRequestError, match="send them to /v1/rerank"):
        await vectors(engine, "scorer", ["a"])
    capabilities = {card.id: card.capabilities for card in engine.models()}
    assert capabilities["encoder"] == ("embedding",)
    assert capabilities["scorer"] == ("rerank",)
    assert capabilities["chat"][-1] == "embedding"


async def test_a_cross_encoder_scores_pairs(engine: Engine, scorer: Path) -> None:
    documents = random_texts(20, 30, seed=7)
    reranked = await engine.rerank(
        RerankRequest(model="scorer", query="abc", documents=documents, param="documents")
    )
    pairs = [[CLS, *tokens_of("abc"), SEP, *tokens_of(it), SEP] for it in documents]
    expected = [score(scorer, pair, second=5) for pair in pairs]
    np.testing.assert_allclose(reranked.scores, expected, atol=2e-5)
    assert reranked.scored_by == "cross-encoder"
    assert reranked.num_tokens == sum(map(len, pairs))


async def test_other_models_score_by_cosine(engine: Engine) -> None:
    documents = ["abc", "xyz"]
    for model in ("encoder", "chat"):
        query, *others = await vectors(engine, model, ["abc", *documents])
        reranked = await engine.rerank(
            RerankRequest(model=model, query="abc", documents=documents, param="documents")
        )
        np.testing.assert_allclose(reranked.scores, [query @ it for it in others], atol=1e-5)
        assert reranked.scores[0] == pytest.approx(1, abs=1e-5)
        assert reranked.scored_by == "cosine"


async def test_more_texts_than_the_queue_takes_come_one_after_another(encoder: Path) -> None:
    narrow = config(encoder, scheduler=SchedulerConfig(max_waiting=4, max_running=2))
    async with running(narrow) as engine:
        texts = random_texts(50, 20)
        found = await vectors(engine, "encoder", texts)
        expected = [pooled(encoder, [CLS, *tokens_of(it), SEP]) for it in texts]
        np.testing.assert_allclose(found, expected, atol=2e-5)


async def test_who_finds_the_queue_full_is_refused_at_once(chat_model: Path, encoder: Path) -> None:
    narrow = config(chat_model, encoder, scheduler=SchedulerConfig(max_waiting=1, max_running=1))
    async with running(narrow) as engine:
        chats = [asyncio.create_task(text(engine, "chat", max_tokens=800)) for _ in range(2)]
        await until(lambda: engine.counters().requests_submitted == 2)
        with pytest.raises(QueueFullError):
            await vectors(engine, "encoder", ["a"])
        await asyncio.gather(*chats)
        await vectors(engine, "encoder", ["a"])


async def test_who_gives_up_ends_all_texts(encoder: Path) -> None:
    async with running(config(encoder)) as engine:
        await until(engine.ready)
        task = asyncio.create_task(vectors(engine, "encoder", random_texts(2000, 50)))
        await until(lambda: engine.counters().requests_submitted > 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: engine.counters().requests_running == 0)
        counters = engine.counters()
        assert counters.requests_waiting == 0
        assert counters.requests_submitted < 1000
        assert counters.requests_finished + counters.requests_aborted == counters.requests_submitted


async def test_a_step_that_fails_ends_its_texts_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await text(engine, "chat", max_tokens=200)
    forward = EncoderTarget.forward

    def fail_once(self: EncoderTarget, *arguments: Any) -> Any:
        monkeypatch.setattr(EncoderTarget, "forward", forward)
        raise RuntimeError("out of memory")

    chat = asyncio.create_task(text(engine, "chat", max_tokens=200))
    monkeypatch.setattr(EncoderTarget, "forward", fail_once)
    with pytest.raises(EngineError, match="send it again"):
        await vectors(engine, "encoder", ["a"])
    assert await chat == said
    await vectors(engine, "encoder", ["a"])


async def test_a_deadline_ends_all_texts_of_a_request(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(config(encoder)) as engine:
        await until(engine.ready)
        texts = random_texts(2000, 50)
        with pytest.raises(DeadlineError):
            await vectors(engine, "encoder", texts, timeout_seconds=0.05)
        await until(lambda: engine.counters().requests_running == 0)


async def test_a_drain_ends_texts_with_an_error_and_takes_no_more(encoder: Path) -> None:
    async with running(config(encoder)) as engine:
        await until(engine.ready)
        task = asyncio.create_task(vectors(engine, "encoder", random_texts(2000, 50)))
        await until(lambda: engine.counters().requests_submitted > 40)
        await engine.stop(0)
        with pytest.raises((UnavailableError, EngineError)):
            await task


async def test_encoders_come_and_go_within_the_same_budget(encoder: Path, scorer: Path) -> None:
    budget = int(1.5 * weight_bytes(scorer, as_float32=True))
    memory = MemoryConfig(budget_bytes=budget, patience_seconds=0.02, min_resident_seconds=0.0)
    async with running(config(encoder, scorer, memory=memory)) as engine:
        for _ in range(3):
            await vectors(engine, "encoder", ["a"])
            assert states(engine) == {"encoder": "resident", "scorer": "absent"}
            await engine.rerank(RerankRequest(model="scorer", query="a", documents=["b"]))
            assert states(engine) == {"encoder": "absent", "scorer": "resident"}
            assert 0 < engine.memory_use().held <= budget
        assert engine.counters().model_evictions == 5
        await engine.unload("scorer")
        assert engine.memory_use().held == 0


async def test_a_model_whose_hidden_states_lie_hidden_refuses_and_harms_nobody(
    tmp_path: Path,
) -> None:
    (tmp_path / "mamba").mkdir()
    folder = save_architecture(tmp_path / "mamba", "mamba")
    save_tokenizer(folder)
    async with running(config(folder)) as engine:
        said = await text(engine, "mamba", max_tokens=50)
        chat = asyncio.create_task(text(engine, "mamba", max_tokens=50))
        with pytest.raises(BadRequestError, match="cannot embed"):
            await vectors(engine, "mamba", ["a", "b"])
        assert await chat == said
        assert "embedding" not in engine.model("mamba").capabilities


async def test_limits_of_waiting_hold_for_texts_too(chat_model: Path, encoder: Path) -> None:
    strict = config(
        chat_model,
        encoder,
        limits=LimitsConfig(queue_seconds=0.05),
        scheduler=SchedulerConfig(max_running=1),
    )
    async with running(strict) as engine:
        await until(engine.ready)
        chat = asyncio.create_task(text(engine, "chat", max_tokens=900))
        await until(lambda: engine.counters().requests_running == 1)
        with pytest.raises(MlxspecError, match="waited"):
            await vectors(engine, "chat", ["a"])
        await chat
