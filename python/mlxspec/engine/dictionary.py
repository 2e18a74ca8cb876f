"""What a draft model with a tokenizer of its own calls the tokens of its target."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mlxspec.engine.ordinary_text import ORDINARY_TEXT
from mlxspec.engine.vocabulary import Vocabulary
from mlxspec.errors import ConfigError
from mlxspec.model.vocabulary import TOKENIZER, Dictionary, same_vocabulary, unreadable

LEAST_COVERED = 0.7
"""Of ordinary text, so much must consist of tokens that both models have. With less, not even one
draft of four tokens in four could be right, and what is read has lost its thread."""


def dictionary(target: Path, draft_model: Path) -> Dictionary | None:
    """Between two model folders; None where they have the same tokens under the same ids.

    Reads files, takes up to a second; any thread. Raises ConfigError for a pair that cannot work.
    """
    if same_vocabulary(target, draft_model):
        return None
    ours, theirs = _tokenizer(target), _tokenizer(draft_model)
    words = _words(ours)
    made = translate(words, _words(theirs))
    has = made.same >= 0
    covered = float(np.mean(has[ours.encode(ORDINARY_TEXT, add_special_tokens=False).ids]))
    if covered < LEAST_COVERED:
        raise ConfigError(
            f"{draft_model.name} cannot draft for {target.name}: it has {has.sum()} of its "
            f"{len(words)} tokens, which make up {covered:.0%} of ordinary text, and "
            f"{LEAST_COVERED:.0%} are needed: choose a draft model with a tokenizer more like its "
            "own, or serve without --draft-model"
        )
    return made


def translate(target: list[bytes], draft_model: list[bytes]) -> Dictionary:
    """From the bytes of every token, by its id; none where an id has no token.

    Of two tokens with the same bytes the draft model is taken to mean the later one: SentencePiece
    lists single bytes first, which it falls back to.
    """
    ids = {word: at for at, word in enumerate(draft_model) if word}
    nearest = [_nearest(word, ids) for word in target]
    return Dictionary(
        same=np.array([ids.get(word, -1) for word in target], np.int32),
        nearest=np.array(nearest, np.int32),
    )


def _nearest(word: bytes, ids: dict[bytes, int]) -> int:
    """The longest known token that the word ends with; 0 if there is none."""
    ends = (word[start:] for start in range(len(word)))
    return next((ids[end] for end in ends if end in ids), 0)


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / TOKENIZER
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # of no narrower type
        raise unreadable(path, error) from error


def _words(tokenizer: Tokenizer) -> list[bytes]:
    vocabulary = Vocabulary(tokenizer)
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    return [vocabulary.bytes_of(token) for token in range(max(ids) + 1)]
