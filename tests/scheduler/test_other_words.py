"""Draft models with a tokenizer of their own: right where they would be, and never harmful."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from samplings import SAMPLINGS
from test_distribution import CRITICAL, Rule, chi_square
from test_draft_model_lossless import (
    WRITTEN_FOR,
    asked,
    check_that_nothing_changes,
    joining_and_leaving,
    model_drafts,
)
from token_engine import TokenEngine, token_engine

from mlxspec.model.vocabulary import Dictionary
from mlxspec.speculative.words import TranslatedWords
from tiny_models import save_in_other_words

pytestmark = pytest.mark.usefixtures("drafts_look_cheap")


def shuffled(tokens: Sequence[int]) -> list[int]:
    return random.Random(2).sample(tokens, len(tokens))


@pytest.fixture(scope="module")
def renumbered_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the target, all of whose tokens have other numbers."""
    folder = tmp_path_factory.mktemp("renumbered")
    return save_in_other_words(folder, tiny_folder, shuffled(range(48)))


@pytest.fixture(scope="module")
def poorer_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that lacks every eighth token besides."""
    folder = tmp_path_factory.mktemp("poorer")
    known = [token for token in range(48) if token % 8 != 5]
    return save_in_other_words(folder, tiny_folder, shuffled(known))


@pytest.fixture
def renumbered(tiny_folder: Path, renumbered_folder: Path, layout: None) -> Iterator[TokenEngine]:
    with token_engine(tiny_folder, shared_suffix_bytes=0, draft_model=renumbered_folder) as running:
        yield running


@pytest.fixture
def poorer(tiny_folder: Path, poorer_folder: Path, layout: None) -> Iterator[TokenEngine]:
    with token_engine(tiny_folder, shared_suffix_bytes=0, draft_model=poorer_folder) as running:
        yield running


@pytest.mark.parametrize("name", WRITTEN_FOR)
def test_a_copy_with_other_numbers_is_never_wrong(renumbered: TokenEngine, name: str) -> None:
    """One token that is read or said by a wrong number would show as a rejected draft."""
    joining_and_leaving(renumbered, asked(60), SAMPLINGS[name])
    drafted, kept = model_drafts(renumbered)
    assert drafted == kept > 80


@pytest.mark.parametrize("name", WRITTEN_FOR)
def test_a_copy_that_lacks_tokens_changes_none(poorer: TokenEngine, name: str) -> None:
    check_that_nothing_changes(poorer, SAMPLINGS[name])
    drafted, kept = model_drafts(poorer)
    assert 0 < kept < drafted


@pytest.mark.parametrize("rule", ["shared-noise", "rejection"])
def test_answers_have_the_targets_distribution_though_a_token_cannot_be_drafted(
    tiny_folder: Path, poorer_folder: Path, layout: None, rule: Rule
) -> None:
    """Of the three tokens that may be drawn, the copy lacks one."""
    assert chi_square(tiny_folder, poorer_folder, rule) < CRITICAL


def test_a_dictionary_that_is_wrong_everywhere_only_spoils_drafts(
    tiny_folder: Path, renumbered_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TranslatedWords.__init__

    def confused(self: TranslatedWords, it: Dictionary, *vocabs: int) -> None:
        original(self, Dictionary(it.same[::-1].copy(), it.nearest), *vocabs)

    monkeypatch.setattr(TranslatedWords, "__init__", confused)
    with token_engine(tiny_folder, shared_suffix_bytes=0, draft_model=renumbered_folder) as engine:
        check_that_nothing_changes(engine, SAMPLINGS["greedy"])
        drafted, kept = model_drafts(engine)
    assert kept < drafted // 2


@pytest.mark.parametrize("rule", ["shared-noise", "rejection"])
def test_requests_that_allow_only_what_the_copy_cannot_say_are_answered_all_the_same(
    tiny_folder: Path, poorer_folder: Path, layout: None, rule: Rule
) -> None:
    how = {"temperature": 1.0, "allowed": [5, 13, 21]}
    with token_engine(
        tiny_folder, shared_suffix_bytes=0, draft_model=poorer_folder, acceptance=rule
    ) as engine:
        plain = engine.generate([3, 1, 4], 40, seed=2, speculate=False, **how)
        drafted = engine.generate([3, 1, 4], 40, seed=2, **how)
        assert set(drafted) <= set(how["allowed"])
        if rule == "shared-noise":
            assert drafted == plain
