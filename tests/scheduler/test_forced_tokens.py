"""What a grammar leaves no choice of is drafted, and judged like every other draft."""

import json
from pathlib import Path
from typing import Any

import pytest
from grammars import compiled, submit, text_of
from layouts import EXACT
from token_engine import Answer, token_engine

from mlxspec.engine.grammar import GrammarCompiler
from mlxspec.engine.model_facts import DeviceShape
from mlxspec.speculative.constrain import Constraint

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "identification_number": {"enum": [1, 2]},
        "a_completely_different_key": {"enum": ["nothing like it", "nor like this"]},
        "whether_to_go_on": {"type": "boolean"},
    },
    "required": ["identification_number", "a_completely_different_key", "whether_to_go_on"],
    "additionalProperties": False,
}
HOWS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 4},
    {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 5},
]

pytestmark = pytest.mark.usefixtures("drafts_look_free")


def passes(answer: Answer) -> int:
    """Steps that the answer took behind its prompt."""
    return len(answer.tokens) - sum(kept * steps for kept, steps in enumerate(answer.accepted))


def answer_all(
    folder: Path, constraint: Constraint, **options: Any
) -> tuple[list[Answer], tuple[int, int]]:
    """An answer for each way to draw, in one batch; forced tokens verified, and kept."""
    with token_engine(folder, shared_suffix_bytes=0) as engine:
        running = [submit(engine, constraint, 400, **how, **options) for how in HOWS]
        answers = [engine.result(request) for request in running]
        drafters = {name: counts for name, *counts in engine.scheduler.counters()["drafters"]}
    verified, kept = drafters["grammar"]
    return answers, (verified, kept)


def test_forced_tokens_spare_steps_and_change_no_answer(
    byte_folder: Path,
    compiler: GrammarCompiler,
    layout: DeviceShape,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constraint = compiled(compiler, "json_schema", json.dumps(SCHEMA))
    forced, (verified, kept) = answer_all(byte_folder, constraint)
    plain, counts = answer_all(byte_folder, constraint, speculate=False)
    assert counts == (0, 0)
    monkeypatch.setattr(Constraint, "forced", lambda _: [])
    unforced, counts = answer_all(byte_folder, constraint)
    assert counts == (0, 0)
    assert [it.tokens for it in forced] == [it.tokens for it in plain]
    assert [it.tokens for it in unforced] == [it.tokens for it in plain]
    assert all(set(json.loads(text_of(it))) == set(SCHEMA["required"]) for it in forced)
    for with_forced, without in zip(forced, unforced, strict=True):
        assert passes(with_forced) < passes(without), "forced tokens spared no step"
    if layout == EXACT:
        assert kept == verified > 100, "of single bytes, a forced one is the only one allowed"


def test_a_draft_of_forced_tokens_ends_where_the_text_may_go_two_ways(
    compiler: GrammarCompiler,
) -> None:
    constraint = compiled(compiler, "regex", "abc(d|e)fgh").copy()
    assert bytes(constraint.forced()) == b"abc"
    constraint.advance([*b"abcd"])
    assert bytes(constraint.forced()) == b"fgh"
    constraint.advance([*b"fgh"])
    assert constraint.forced() == []
