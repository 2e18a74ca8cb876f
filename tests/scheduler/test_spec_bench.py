"""Spec-Bench's prompts, greedy: the same tokens with each drafter, however often it is right."""

from pathlib import Path

import pytest
from layouts import EXACT, PADDED
from spec_bench import questions
from test_identity_matrix import DRAFTERS, Matrix, Wish, drafting_folders, keep_at_rate
from token_engine import token_engine

from mlxspec.engine.tokenizer import Tokenizer

NAMES = [
    "suffix", "shared_suffix", "prediction", "draft_model", "wrong_draft_model", "other_words",
]  # fmt: skip
RATES = [0.0, 0.3, 0.7, 1.0]
"""Of right drafts, so many are kept, as if the others had been wrong."""
MAX_TOKENS = 32


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    """Few prompts, or with `--full` sixty."""
    return 60 if request.config.getoption("--full") else 6


@pytest.fixture(scope="module")
def matrix(byte_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return Matrix(drafting_folders(byte_folder, tmp_path_factory.mktemp("drafting")))


@pytest.mark.usefixtures("drafts_look_cheap")
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_those_of_plain_decoding(
    matrix: Matrix, count: int, name: str, batch: int
) -> None:
    """A tiny model over bytes, which reads the beginning of each prompt."""
    prompts = [tuple(it.encode()[:120]) for it in questions(count)]
    asked = [Wish("greedy", prompt, MAX_TOKENS, seed=0) for prompt in prompts]
    drafter, shape = DRAFTERS[name], EXACT if batch == 1 else PADDED
    drafted = 0
    with matrix.engine(drafter, shape, max_running=batch) as engine:
        for rate in RATES:
            with pytest.MonkeyPatch.context() as patch:
                keep_at_rate(patch, rate)
                for _ in range(drafter.repeats):
                    answers = matrix.answers(engine, drafter, asked, together=batch > 1)
                    assert [it.tokens for it in answers] == matrix.plain(asked), (name, rate)
                drafted += sum(it.num_draft_tokens for it in answers)
    assert drafted > count


@pytest.mark.parametrize("batch", [1, 8])
def test_the_demo_models_are_too(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    demo_folder: Path,
    batch: int,
) -> None:
    """With drafts from text and from a prediction, whether they pay or not."""
    if not request.config.getoption("--full"):
        pytest.skip("--full asks the demo model")
    tokenizer = Tokenizer.load(demo_folder)
    prompts = [tokenizer.encode([{"role": "user", "content": it[:400]}]) for it in questions(12)]
    with token_engine(
        demo_folder, kv_bytes=1 << 30, max_running=batch, max_draft=8, adaptive=False
    ) as engine:
        plain = [engine.generate(it, MAX_TOKENS, speculate=False) for it in prompts]
        for rate in RATES:
            with monkeypatch.context() as patch:
                keep_at_rate(patch, rate)
                running = [
                    engine.submit(prompt, MAX_TOKENS, prediction=answer)
                    for prompt, answer in zip(prompts, plain, strict=True)
                ]
                answers = [engine.result(request) for request in running]
                assert [it.tokens for it in answers] == plain
                assert sum(it.num_draft_tokens for it in answers) > 0
