"""Forced acceptance: rejecting right drafts changes no token, and the rate is the one asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from spec_bench import questions
from token_engine import TokenEngine, token_engine

NUM_PROMPTS = 60
MAX_TOKENS = 24


pytestmark = pytest.mark.usefixtures("drafts_look_free")


@contextmanager
def forced(folder: Path, rate: float | None) -> Iterator[TokenEngine]:
    with token_engine(folder, synthetic=rate, shared_suffix_bytes=0) as engine:
        yield engine


def spec_bench() -> list[list[int]]:
    """The benchmark's prompts, as far as a model of 48 tokens can read: some letters of each."""
    return [[ord(letter) % 48 for letter in it[:150]] for it in questions(NUM_PROMPTS)]


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 1.0])
def test_right_drafts_kept_at_any_rate_leave_greedy_text_as_it_is(
    tiny_folder: Path, rate: float
) -> None:
    prompts = spec_bench()
    with forced(tiny_folder, None) as engine:
        plain = [engine.generate(prompt, MAX_TOKENS, speculate=False) for prompt in prompts]
    with forced(tiny_folder, rate) as engine:
        asked = zip(prompts, plain, strict=True)
        running = [engine.submit(prompt, MAX_TOKENS, prediction=answer) for prompt, answer in asked]
        answers = [engine.result(request) for request in running]
    assert [answer.tokens for answer in answers] == plain
    assert sum(answer.num_draft_tokens for answer in answers) > NUM_PROMPTS


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 1.0])
def test_drafts_are_kept_at_the_rate_though_all_are_wrong(tiny_folder: Path, rate: float) -> None:
    prompt = [5, 6, 7, 8] * 8
    with forced(tiny_folder, rate) as engine:
        answers = [engine.result(engine.submit(prompt, 80, seed=seed)) for seed in range(20)]
    steps = sum(sum(answer.accepted) for answer in answers)
    first_kept = sum(sum(answer.accepted[1:]) for answer in answers)
    assert steps > 40
    assert first_kept / steps == pytest.approx(rate, abs=0.12)
    assert all(len(answer.tokens) == 80 for answer in answers)
