"""Models that mean the same tokens by the same ids, and those that do not."""

import json
from pathlib import Path

import pytest

from mlxspec.errors import ConfigError
from mlxspec.model.vocabulary import same_vocabulary

WORDS = {"a": 0, "b": 1, "c": 2}


def folder(parent: Path, name: str, vocab: object, added: dict[str, int] | None = None) -> Path:
    path = parent / name
    path.mkdir()
    tokens = [{"content": content, "id": at} for content, at in (added or {}).items()]
    read = {"model": {"vocab": vocab}, "added_tokens": tokens}
    (path / "tokenizer.json").write_text(json.dumps(read))
    return path


def test_vocabularies_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    one = folder(tmp_path, "one", WORDS, {"<end>": 3})
    two = folder(tmp_path, "two", [["a", -1.0], ["b", -2.0], ["c", -3.0], ["<end>", 0.0]])
    assert same_vocabulary(one, two)


@pytest.mark.parametrize(
    "vocab", [{"a": 0, "b": 2, "c": 1}, {"a": 0, "b": 1}, WORDS | {"d": 3}], ids=str
)
def test_another_number_or_another_token_makes_another_vocabulary(
    tmp_path: Path, vocab: dict[str, int]
) -> None:
    one, two = folder(tmp_path, "one", WORDS), folder(tmp_path, "two", vocab)
    assert not same_vocabulary(one, two)


@pytest.mark.parametrize("text", ["", "{}", '{"model": {"vocab": [1]}}', "[]"])
def test_a_vocabulary_that_cannot_be_read_is_refused_by_its_file(tmp_path: Path, text: str) -> None:
    one, two = folder(tmp_path, "one", WORDS), folder(tmp_path, "two", WORDS)
    (two / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match=r"two/tokenizer\.json cannot be read"):
        same_vocabulary(one, two)
