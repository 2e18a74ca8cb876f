"""Both acceptance rules draw from the target's distribution, through the whole engine."""

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model
from samplings import SAMPLINGS
from test_draft_model_lossless import WRITTEN_FOR, asked, joining_and_leaving, model_drafts
from token_engine import token_engine

from mlxspec.speculative import rejection
from mlxspec.speculative.rejection import Verdict, judge

Rule = Literal["shared-noise", "rejection"]

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
LENGTH = 4
ALLOWED = [1, 5, 9]
HOW: dict[str, Any] = {"temperature": 1.0, "allowed": ALLOWED}
REQUESTS = 1000
OFTEN = 5
"""Answers expected less often are counted together: one of them, seen once, would be a chi-square
of hundreds by itself."""
CRITICAL = 76.0
"""Chi-square that the 27 degrees of freedom left exceed about three times in a million."""


pytestmark = pytest.mark.usefixtures("drafts_look_cheap")


def exact_probs(folder: Path) -> dict[tuple[int, ...], float]:
    """Of every answer its probability, by the model itself."""
    model, _ = load_model(folder)
    answers = list(product(ALLOWED, repeat=LENGTH))
    logits = model(mx.array([[*PROMPT, *answer] for answer in answers]))
    scaled = logits[:, len(PROMPT) - 1 : -1, mx.array(ALLOWED)] / HOW["temperature"]
    logprobs = np.array(scaled - mx.logsumexp(scaled, axis=-1, keepdims=True))
    drawn = [[ALLOWED.index(token) for token in answer] for answer in answers]
    return {
        answer: float(np.exp(sum(logprobs[at, place, it] for place, it in enumerate(tokens))))
        for at, (answer, tokens) in enumerate(zip(answers, drawn, strict=True))
    }


def chi_square(folder: Path, drafts: Path, rule: Rule) -> float:
    with token_engine(folder, draft_model=drafts, shared_suffix_bytes=0, acceptance=rule) as engine:
        counts: Counter[tuple[int, ...]] = Counter()
        for batch in range(0, REQUESTS, 50):
            seeds = range(batch, batch + 50)
            running = [engine.submit(PROMPT, LENGTH, seed=seed, **HOW) for seed in seeds]
            counts.update(tuple(engine.result(request).tokens) for request in running)
        verified, kept = model_drafts(engine)
    assert 100 < kept <= verified
    probs = exact_probs(folder)
    assert set(counts) <= set(probs)
    rare = {it for it, prob in probs.items() if REQUESTS * prob < OFTEN}
    cells = [(counts[it], REQUESTS * prob) for it, prob in probs.items() if it not in rare]
    cells.append((sum(counts[it] for it in rare), REQUESTS * sum(probs[it] for it in rare)))
    return sum((seen - expected) ** 2 / expected for seen, expected in cells)


@pytest.mark.parametrize("rule", ["shared-noise", "rejection"])
def test_answers_have_the_targets_distribution(
    tiny_folder: Path, stranger_folder: Path, layout: None, rule: Rule
) -> None:
    assert chi_square(tiny_folder, stranger_folder, rule) < CRITICAL


def test_a_rule_that_trusts_the_draft_model_would_be_seen(
    tiny_folder: Path, stranger_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trusting(target: mx.array, proposed: mx.array, *others: mx.array) -> Verdict:
        return judge(target, target[:, :-1], *others)

    monkeypatch.setattr(rejection, "judge", trusting)
    assert chi_square(tiny_folder, stranger_folder, "rejection") > 2 * CRITICAL


@pytest.mark.parametrize("name", WRITTEN_FOR)
def test_the_targets_own_drafts_are_never_rejected(
    tiny_folder: Path, layout: None, name: str
) -> None:
    """A weight out of its place would show: p and q are the same, edits and truncation and all."""
    with token_engine(
        tiny_folder, draft_model=tiny_folder, shared_suffix_bytes=0, acceptance="rejection"
    ) as engine:
        joining_and_leaving(engine, asked(60), SAMPLINGS[name])
        verified, kept = model_drafts(engine)
    assert verified == kept > 80


@pytest.mark.parametrize("name", ["greedy", "repetition_penalty", "frequency_penalty"])
def test_greedy_tokens_are_those_of_plain_decoding_by_either_rule(
    tiny_folder: Path, stranger_folder: Path, layout: None, name: str
) -> None:
    with token_engine(tiny_folder, draft_model=stranger_folder, acceptance="rejection") as engine:
        plain = [
            engine.generate(it, size, speculate=False, **SAMPLINGS[name]) for it, size in asked()
        ]
        assert joining_and_leaving(engine, asked(), SAMPLINGS[name]) == plain


def test_logprobs_are_those_of_the_tokens_that_came_out(
    tiny_folder: Path, stranger_folder: Path, layout: None
) -> None:
    with token_engine(
        tiny_folder, draft_model=stranger_folder, shared_suffix_bytes=0, acceptance="rejection"
    ) as engine:
        answer = engine.result(engine.submit(PROMPT, 60, temperature=1.0, seed=3, logprobs=0))
        assert model_drafts(engine)[0] > 0
    model, _ = load_model(tiny_folder)
    logits = model(mx.array([[*PROMPT, *answer.tokens]]))[0, len(PROMPT) - 1 : -1]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    expected = [float(logprobs[at, token]) for at, token in enumerate(answer.tokens)]
    assert [told for told, _ in answer.logprobs] == pytest.approx(expected, abs=1e-4)
