"""What a draft model calls its target's tokens, and pairs that have too little in common."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mlxspec.engine.dictionary import dictionary, translate
from mlxspec.engine.ordinary_text import ORDINARY_TEXT
from mlxspec.errors import ConfigError


def byte_level(folder: Path, size: int, text: str = ORDINARY_TEXT) -> Path:
    """A folder with a byte-level tokenizer of so many tokens, taught by a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return saved(folder, tokenizer)


def sentence_piece(folder: Path, words: list[str]) -> Path:
    """A folder with a tokenizer of such words, and of single bytes to fall back to."""
    pieces = [(f"<0x{byte:02X}>", -9.0) for byte in range(256)] + [(it, -1.0) for it in words]
    tokenizer = Tokenizer(models.Unigram(pieces, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return saved(folder, tokenizer)


def saved(folder: Path, tokenizer: Tokenizer) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def words_of(folder: Path) -> dict[str, int]:
    found: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return found


def test_each_token_has_its_namesake_or_else_the_longest_that_it_ends_with() -> None:
    target = [b"the", b" sea", b"shore", b"", b"\xff", b"seashore"]
    made = translate(target, [b"shore", b"the", b"a", b" sea", b"", b"re"])
    assert made.same.tolist() == [1, 3, 0, -1, -1, -1]
    assert made.nearest.tolist() == [1, 3, 0, 0, 0, 0]


def test_a_word_means_the_same_in_byte_level_and_in_sentencepiece(tmp_path: Path) -> None:
    ours = byte_level(tmp_path / "ours", 600)
    english = [it.replace("Ġ", "▁") for it in words_of(ours) if it.isascii() or "Ġ" in it]
    theirs = sentence_piece(tmp_path / "theirs", english)
    made = dictionary(ours, theirs)
    assert made is not None
    for word in ("at", "Ġthe", "e"):
        token = words_of(ours)[word]
        assert made.same[token] == words_of(theirs)[word.replace("Ġ", "▁")]
    newline = words_of(ours)["Ċ"]
    assert made.same[newline] == words_of(theirs)["<0x0A>"]


def test_the_same_vocabulary_needs_no_dictionary(tmp_path: Path) -> None:
    assert dictionary(byte_level(tmp_path / "a", 500), byte_level(tmp_path / "b", 500)) is None


def test_a_token_more_is_no_hindrance(tmp_path: Path) -> None:
    ours, theirs = byte_level(tmp_path / "ours", 500), byte_level(tmp_path / "theirs", 501)
    made = dictionary(ours, theirs)
    assert made is not None
    assert made.same.tolist() == made.nearest.tolist()
    assert (made.same >= 0).all()


def test_a_pair_with_little_in_common_is_refused_with_the_figures(tmp_path: Path) -> None:
    ours, theirs = byte_level(tmp_path / "ours", 900), byte_level(tmp_path / "theirs", 256)
    with pytest.raises(ConfigError) as refused:
        dictionary(ours, theirs)
    said = str(refused.value)
    assert "theirs cannot draft for ours: it has 256 of its 669 tokens" in said
    assert "% of ordinary text, and 70% are needed" in said
    assert "or serve without --draft-model" in said


def test_a_vocabulary_that_is_not_one_is_refused_by_its_file(tmp_path: Path) -> None:
    ours = byte_level(tmp_path / "ours", 300)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    with pytest.raises(ConfigError, match=r"theirs/tokenizer\.json cannot be read"):
        dictionary(ours, theirs)
