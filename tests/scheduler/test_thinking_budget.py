"""Reasoning ends where its budget says, drafted or not, alone or in a batch."""

from pathlib import Path
from typing import Any

import pytest
from samplings import PENALTIES
from texts import prompts
from token_engine import TokenEngine, token_engine

from mlxspec.engine.model_facts import DeviceShape
from mlxspec.speculative.constrain import Constraint
from mlxspec.speculative.thinking import ThinkingBudget

pytestmark = pytest.mark.usefixtures("drafts_look_free")

VOCAB = 48
START, END = (45,), (46, 47)


def submit(engine: TokenEngine, prompt: list[int], most: int, **options: Any) -> int:
    budget = ThinkingBudget(most, START, END, thinks=True)
    key = engine.runner.constraints(0).add(Constraint(None, VOCAB, [], budget))
    return engine.submit(prompt, 80, constraint=key, **options)


@pytest.mark.parametrize("name", ["greedy", "sampled"])
def test_the_marker_stands_behind_the_budget_and_the_rest_is_what_follows_it(
    layout: DeviceShape, tiny_folder: Path, name: str
) -> None:
    how = {"greedy": {}, "sampled": {"temperature": 0.8, "seed": 4}}[name]
    asked = prompts(6, seed=13)
    with token_engine(tiny_folder) as engine:
        free = [engine.generate(prompt, 80, speculate=False, **how) for prompt in asked]
        alone = [
            engine.result(submit(engine, prompt, 20, speculate=False, **how)) for prompt in asked
        ]
        running = [submit(engine, prompt, 20, **how) for prompt in asked]
        beside = [engine.submit(prompt, 80, **how) for prompt in asked]
        drafted = [engine.result(request) for request in running]
        assert [it.tokens for it in drafted] == [it.tokens for it in alone]
        assert [engine.result(request).tokens for request in beside] == free
        assert sum(sum(it.accepted[1:]) for it in drafted) > 0, "no draft was kept"
        bounded = 0
        for answer, unbounded in zip(alone, free, strict=True):
            ended_itself = END[0] in unbounded[:21] and END[1] in unbounded[:22]
            if not ended_itself:
                assert answer.tokens[:20] == unbounded[:20]
                assert answer.tokens[20:22] == list(END)
                bounded += 1
        assert bounded > 0


def test_a_budget_that_is_never_reached_changes_no_token(tiny_folder: Path) -> None:
    with token_engine(tiny_folder) as engine:
        for prompt in prompts(4, seed=2):
            assert engine.result(submit(engine, prompt, 500)).tokens == engine.generate(prompt, 80)


def test_other_ways_to_draw_keep_to_it(tiny_folder: Path) -> None:
    penalised = {**PENALTIES, "temperature": 0.8}
    with token_engine(tiny_folder) as engine:
        [prompt] = prompts(1, seed=6)
        answer = engine.result(submit(engine, prompt, 0, logprobs=1, **penalised))
        assert answer.tokens[:2] == list(END)
        assert len(answer.logprobs) == len(answer.tokens)
