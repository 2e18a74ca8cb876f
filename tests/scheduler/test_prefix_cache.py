"""Reused KV is the KV that would have been computed: hits, partial hits and misses, alone, in
batches and after preemption, drafted for or not, change no token."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from layouts import BUCKET_BYTES
from texts import phrases
from token_engine import Answer, TokenEngine, token_engine

from mlxspec.engine.model_facts import DeviceShape

pytestmark = pytest.mark.usefixtures("drafts_look_free")

SAMPLED = {"temperature": 0.8, "top_p": 0.9, "seed": 5}


@pytest.fixture
def engine(tiny_folder: Path, layout: DeviceShape) -> Iterator[TokenEngine]:
    with token_engine(tiny_folder) as running:
        yield running


@pytest.fixture
def forgetful(tiny_folder: Path, layout: DeviceShape) -> Iterator[TokenEngine]:
    """Computes every prompt from its first token, and drafts nothing."""
    with token_engine(tiny_folder, prefix_cache=False, speculation=False) as running:
        yield running


def turn(engine: TokenEngine, prompt: list[int], **options: object) -> Answer:
    return engine.result(engine.submit(prompt, 30, **options))


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("speculate", [True, False], ids=["drafted", "plain"])
def test_a_chat_of_six_turns_reuses_all_it_said_and_says_the_same(
    engine: TokenEngine, forgetful: TokenEngine, options: dict[str, float], speculate: bool
) -> None:
    chat, known = phrases(100, 1), 1
    for at in range(6):
        answer = turn(engine, chat, speculate=speculate, **options)
        assert answer.tokens == turn(forgetful, chat, **options).tokens
        # Of what the last turn said, only the last token was never computed.
        assert answer.cached_tokens == known - 1
        chat = chat + answer.tokens
        known = len(chat)
        chat = chat + phrases(9 + at, 10 + at)


def test_a_rewritten_history_is_reused_up_to_where_it_differs(
    engine: TokenEngine, forgetful: TokenEngine
) -> None:
    chat = phrases(150, 2)
    said = turn(engine, chat).tokens
    rewritten = [*chat, *said[:5], 47, *said[9:]]
    answer = turn(engine, rewritten)
    assert answer.cached_tokens in {155, 156}
    assert answer.tokens == turn(forgetful, rewritten).tokens
    assert turn(engine, chat).tokens == said, "the first history is still there"


def test_the_same_prompt_again_computes_one_token(engine: TokenEngine) -> None:
    prompt = phrases(90, 3)
    first = turn(engine, prompt)
    again = turn(engine, prompt)
    assert (first.cached_tokens, again.cached_tokens) == (0, 89)
    assert first.tokens == again.tokens


def test_other_salts_share_nothing(engine: TokenEngine) -> None:
    prompt = phrases(90, 4)
    turn(engine, prompt, cache_salt="anna")
    assert turn(engine, prompt, cache_salt="bert").cached_tokens == 0
    assert turn(engine, prompt, cache_salt="anna").cached_tokens == 89


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_that_shares_a_beginning_says_what_each_says_alone(
    engine: TokenEngine, forgetful: TokenEngine, options: dict[str, float]
) -> None:
    system = phrases(120, 5)
    asked = [system[: 120 - 11 * at] + phrases(20 + 3 * at, 20 + at) for at in range(8)]
    alone = [turn(forgetful, prompt, **options).tokens for prompt in asked]
    turn(engine, system, **options)
    running = [engine.submit(prompt, 30, **options) for prompt in asked]
    answers = [engine.result(request) for request in running]
    assert [answer.tokens for answer in answers] == alone
    assert sum(answer.cached_tokens for answer in answers) > 400


def test_preempted_requests_with_a_shared_beginning_come_to_the_same_tokens(
    tiny_folder: Path, forgetful: TokenEngine
) -> None:
    asked = [phrases(60, 6) + phrases(30, 30 + at) for at in range(6)]
    alone = [forgetful.generate(prompt, 300, **SAMPLED) for prompt in asked]
    with token_engine(tiny_folder, kv_bytes=6 * BUCKET_BYTES) as tight:
        for _ in range(2):
            running = [tight.submit(prompt, 300, **SAMPLED) for prompt in asked]
            answers = [tight.result(request) for request in running]
            assert [answer.tokens for answer in answers] == alone
            assert sum(answer.preemptions for answer in answers) > 0
        assert tight.scheduler.counters()["prefix_evictions"] > 0
