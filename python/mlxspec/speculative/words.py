"""How a draft model's tokens become its target's, and the target's its own; on the device.

A draft model's KV has one position for each token of the target's text, whatever the models' words
are: where both have the same token, it reads and says its own id for it.
"""

from typing import Protocol

import mlx.core as mx
import numpy as np

from mlxspec.model.vocabulary import Dictionary


class Words(Protocol):
    """Between one target and one draft model. Engine thread; everything lazily."""

    def heard(self, tokens: mx.array) -> mx.array:
        """What the draft model reads for the target's tokens (num_tokens,)."""
        ...

    def said(self, logits: mx.array) -> mx.array:
        """Its logits (rows, its vocab) as logits over the target's vocabulary.

        Noise is drawn for a vocabulary as a whole, so they are as many as the target's. Tokens that
        it cannot say have -inf: what it draws from is its distribution over the others, scaled up.
        """
        ...


class SameWords:
    """The same ids on both sides; vocab, target_vocab: logits of each, padded as they like."""

    def __init__(self, vocab: int, target_vocab: int) -> None:
        self._vocab = vocab
        self._target_vocab = target_vocab

    def heard(self, tokens: mx.array) -> mx.array:
        """See `Words.heard`."""
        return mx.minimum(tokens, self._vocab - 1)

    def said(self, logits: mx.array) -> mx.array:
        """See `Words.said`."""
        missing = self._target_vocab - self._vocab
        if missing <= 0:
            return logits[:, : self._target_vocab]
        return mx.pad(logits, [(0, 0), (0, missing)], constant_values=float("-inf"))


class TranslatedWords:
    """Other ids, or other tokens, on either side. The rest as for `SameWords`."""

    def __init__(self, dictionary: Dictionary, vocab: int, target_vocab: int) -> None:
        known = min(len(dictionary.same), target_vocab)
        same = np.full(target_vocab, -1, np.int32)
        same[:known] = dictionary.same[:known]
        same[same >= vocab] = -1
        self._unsaid = mx.array(same < 0)
        self._same = mx.array(np.maximum(same, 0))
        self._nearest = mx.array(np.minimum(dictionary.nearest, vocab - 1).astype(np.uint32))

    def heard(self, tokens: mx.array) -> mx.array:
        """See `Words.heard`."""
        return self._nearest[mx.minimum(tokens, self._nearest.size - 1)]

    def said(self, logits: mx.array) -> mx.array:
        """See `Words.said`."""
        return mx.where(self._unsaid, float("-inf"), logits[:, self._same])
