"""Logprobs are the target's own: mlx-lm's, for drawn and for accepted tokens, in any batch."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model
from token_engine import TokenEngine, token_engine

pytestmark = pytest.mark.usefixtures("drafts_look_free")


PROMPT = [5, 9, 2, 5, 9, 2, 5, 9, 2, 5, 9]


def check(engine: TokenEngine, request: int, folder: Path, prompt: list[int], count: int) -> int:
    """Compare with one forward of mlx-lm over the whole text; returns how many drafts were kept."""
    answer = engine.result(request)
    assert len(answer.logprobs) == len(answer.tokens)
    model, _ = load_model(folder)
    scores = model(mx.array([[*prompt, *answer.tokens]]))[0, len(prompt) - 1 : -1]
    expected = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
    for token, (logprob, top), row in zip(
        answer.tokens, answer.logprobs, expected.tolist(), strict=True
    ):
        assert logprob == pytest.approx(row[token], abs=1e-4)
        assert [value for _, value in top] == pytest.approx(
            sorted(row, reverse=True)[:count], abs=1e-4
        )
        assert [row[one] for one, _ in top] == pytest.approx([value for _, value in top], abs=1e-4)
    return sum(kept * times for kept, times in enumerate(answer.accepted))


def test_logprobs_are_mlx_lms_for_every_token_drafted_or_not(tiny_folder: Path) -> None:
    how = {"temperature": 0.6, "seed": 3, "frequency_penalty": 0.1, "bias": [(3, -1.0)]}
    with token_engine(tiny_folder) as engine:
        running = [
            engine.submit(PROMPT[at:], 60, logprobs=at, speculate=at < 3, **how) for at in range(5)
        ]
        silent = engine.submit(PROMPT, 60, **how)
        kept = [
            check(engine, request, tiny_folder, PROMPT[at:], at)
            for at, request in enumerate(running)
        ]
        assert sum(kept) > 0
        assert engine.result(silent).logprobs == []
        assert engine.result(silent).tokens == engine.result(running[0]).tokens


def test_a_token_that_ends_the_request_has_its_logprob(tiny_folder: Path) -> None:
    with token_engine(tiny_folder) as engine:
        request = engine.submit(PROMPT, 60, stop_tokens=[*range(0, 48, 2)], logprobs=2)
        check(engine, request, tiny_folder, PROMPT, 2)
        assert engine.result(request).reason == "stop"
