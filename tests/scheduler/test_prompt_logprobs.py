"""How likely a prompt's own tokens were: mlx-lm's figures, whatever is cached or drafted."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from layouts import BUCKET_BYTES
from mlx_lm.utils import load_model
from texts import prompts
from token_engine import TokenEngine, token_engine

from mlxspec.engine.model_facts import DeviceShape
from mlxspec.speculative.prompt_scores import PromptScores
from tiny_architectures import save_architecture

pytestmark = pytest.mark.usefixtures("drafts_look_free")


def submit(
    engine: TokenEngine, prompt: list[int], max_tokens: int, num_top: int = 3, **options: Any
) -> tuple[int, PromptScores]:
    scores = PromptScores(prompt, num_top)
    key = engine.runner.harvests.add(scores)
    return engine.submit(prompt, max_tokens, harvest=key, **options), scores


def check(scores: PromptScores, folder: Path, prompt: list[int], num_top: int = 3) -> None:
    """Compare with one forward of mlx-lm over the whole prompt."""
    model, _ = load_model(folder)
    logits = model(mx.array([prompt]))[0]
    expected = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[:-1]
    told = scores.scores()
    assert len(told) == len(prompt) - 1
    for token, score, row in zip(prompt[1:], told, expected, strict=True):
        assert score.logprob == pytest.approx(row[token], abs=1e-3)
        assert (
            abs(score.rank - 1 - (row > row[token]).sum()) <= (abs(row - row[token]) < 1e-3).sum()
        )
        best = sorted(row, reverse=True)[:num_top]
        assert [value for _, value in score.top] == pytest.approx(best, abs=1e-3)
        assert [row[one] for one, _ in score.top] == pytest.approx(best, abs=1e-3)


def test_logprobs_of_prompts_are_mlx_lms_and_change_no_answer(
    layout: DeviceShape, tiny_folder: Path
) -> None:
    asked = [*prompts(8, seed=5), [3], list(range(40)) * 6]
    with token_engine(tiny_folder) as engine:
        plain = [engine.generate(prompt, 60, speculate=False) for prompt in asked]
        running = [submit(engine, prompt, 60) for prompt in asked]
        beside = [engine.submit(prompt, 60) for prompt in asked]
        for (request, scores), other, prompt, expected in zip(
            running, beside, asked, plain, strict=True
        ):
            answer = engine.result(request)
            assert answer.tokens == engine.result(other).tokens == expected
            assert answer.cached_tokens == 0
            check(scores, tiny_folder, prompt)


def test_prompts_that_are_only_read_bring_no_token(layout: DeviceShape, tiny_folder: Path) -> None:
    with token_engine(tiny_folder) as engine:
        asked = prompts(6, seed=9)
        running = [submit(engine, prompt, 0, num_top=0) for prompt in asked]
        for (request, scores), prompt in zip(running, asked, strict=True):
            answer = engine.result(request)
            assert (answer.tokens, answer.reason) == ([], "length")
            check(scores, tiny_folder, prompt, num_top=0)


def test_who_loses_its_row_is_told_the_same(layout: DeviceShape, tiny_folder: Path) -> None:
    asked = prompts(6, seed=3)
    with token_engine(tiny_folder, kv_bytes=3 * BUCKET_BYTES) as engine:
        alone = [engine.generate(prompt, 200, speculate=False) for prompt in asked]
        running = [submit(engine, prompt, 200) for prompt in asked]
        answers = [engine.result(request) for request, _ in running]
        assert [answer.tokens for answer in answers] == alone
        for (_, scores), prompt in zip(running, asked, strict=True):
            check(scores, tiny_folder, prompt)


def test_windows_of_attention_hold_for_them(windowed_folder: Path) -> None:
    with token_engine(windowed_folder) as engine:
        prompt = list(range(45)) * 3
        request, scores = submit(engine, prompt, 4)
        engine.result(request)
        check(scores, windowed_folder, prompt)


def test_a_model_that_shows_no_hidden_states_says_so_and_answers(tmp_path: Path) -> None:
    folder = save_architecture(tmp_path, "mamba")
    with token_engine(folder) as engine:
        said = engine.generate([1, 2, 3], 20)
        request, scores = submit(engine, [1, 2, 3], 20)
        assert engine.result(request).tokens == said
        assert scores.refusal
