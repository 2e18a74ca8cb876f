"""Answers that later requests are drafted from: whose, whose not, and after a restart."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from token_engine import Answer, TokenEngine, token_engine

PROMPT = random.Random(1).sample(range(48), 40)
"""No word of it comes twice, and at this temperature the answer hardly repeats itself."""

SHARED = 2
"""Index of the shared texts among the drafters."""


pytestmark = pytest.mark.usefixtures("drafts_look_free")


@pytest.fixture
def engine(tiny_folder: Path) -> Iterator[TokenEngine]:
    with token_engine(tiny_folder) as running:
        yield running


def ask(engine: TokenEngine, salt: str = "", *, speculate: bool = True) -> Answer:
    options = {"temperature": 1.0, "seed": 5, "cache_salt": salt, "speculate": speculate}
    return engine.result(engine.submit(PROMPT, 60, **options))


def shared_tokens(engine: TokenEngine) -> tuple[int, int]:
    """Draft tokens from shared texts so far: verified, and kept."""
    name, verified, kept = engine.scheduler.counters()["drafters"][SHARED]
    assert name == "shared_suffix"
    return verified, kept


def test_an_answer_given_before_is_drafted_from(engine: TokenEngine) -> None:
    first = ask(engine)
    assert shared_tokens(engine) == (0, 0)
    second = ask(engine)
    verified, kept = shared_tokens(engine)
    assert second.tokens == first.tokens
    assert verified == kept > 40


def test_nothing_is_drafted_from_answers_under_another_salt(engine: TokenEngine) -> None:
    plain = ask(engine, "a").tokens
    for salt in ("b", "", "aa", "A"):
        assert ask(engine, salt).tokens == plain
    assert shared_tokens(engine) == (0, 0)
    ask(engine, "a")
    assert shared_tokens(engine)[1] > 40


def test_a_request_without_speculation_neither_gives_nor_takes(engine: TokenEngine) -> None:
    ask(engine, speculate=False)
    ask(engine)
    assert shared_tokens(engine) == (0, 0)
    assert ask(engine, speculate=False).num_draft_tokens == 0


def test_without_memory_nothing_is_remembered(tiny_folder: Path) -> None:
    with token_engine(tiny_folder, shared_suffix_bytes=0) as engine:
        ask(engine)
        ask(engine)
        assert shared_tokens(engine) == (0, 0)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("disturb", "remembered"), [(lambda _: None, True), (flip, False), (Path.unlink, False)]
)
def test_a_restarted_server_remembers_if_asked_and_the_file_is_whole(
    tiny_folder: Path, tmp_path: Path, disturb: Callable[[Path], None], remembered: bool
) -> None:
    with token_engine(tiny_folder, suffix_dir=str(tmp_path / "texts")) as engine:
        first = ask(engine)
    [file] = (tmp_path / "texts").iterdir()
    disturb(file)
    with token_engine(tiny_folder, suffix_dir=str(tmp_path / "texts")) as engine:
        assert ask(engine).tokens == first.tokens
        assert (shared_tokens(engine)[1] > 40) == remembered
