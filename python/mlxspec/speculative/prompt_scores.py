"""How likely the target found each token of a prompt, after those before it."""

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxspec.speculative.harvest import Gathered, Head
from mlxspec.speculative.logprobs import alternatives

SLICE = 64
"""Positions whose logits are in memory at once."""


class Score(NamedTuple):
    """Of one token: its logprob, its rank (1 is the likeliest), and the likeliest tokens there."""

    logprob: float
    rank: int
    top: list[tuple[int, float]]


class PromptScores:
    """Scores of a prompt's tokens but for the first, before which there is nothing.

    num_top: alternatives to tell of each.
    """

    def __init__(self, prompt: list[int], num_top: int) -> None:
        self._prompt = np.array(prompt, np.uint32)
        self._num_top = num_top
        self._words = np.zeros((len(prompt), 2 + 2 * num_top), np.uint32)
        self.refusal = ""

    def of(self, start: int, hidden: mx.array, head: Head | None) -> mx.array:
        """See `Harvest.of`: (n, 2 + 2 * num_top) uint32, a line for each token.

        Each tells of the token that follows it; the prompt's last one of any.
        """
        assert head is not None
        lines = []
        following = np.append(self._prompt[start + 1 :], np.uint32(0))
        for first in range(0, hidden.shape[0], SLICE):
            part = hidden[first : first + SLICE]
            tokens = mx.array(following[first : first + part.shape[0]])
            lines.append(_words(head(part), tokens, self._num_top))
            mx.eval(lines[-1])
        return mx.concatenate(lines)

    def take(self, start: int, part: Gathered) -> None:
        """See `Harvest.take`."""
        self._words[start : start + len(part)] = part

    def refuse(self, reason: str) -> None:
        """See `Harvest.refuse`."""
        self.refusal = reason

    def scores(self) -> list[Score]:
        """Of all tokens but the first; the prompt has been computed."""
        lines = self._words[:-1]
        floats: Any = lines.view(np.float32)
        top = [
            list(zip(ids.tolist(), values.tolist(), strict=True))
            for ids, values in zip(lines[:, 2::2], floats[:, 3::2], strict=True)
        ]
        of_tokens = zip(floats[:, 0].tolist(), lines[:, 1].tolist(), top, strict=True)
        return [Score(*score) for score in of_tokens]


def _words(logits: mx.array, tokens: mx.array, num_top: int) -> mx.array:
    """Logprob and rank of `tokens` (n,) by logits (n, vocab), then id and logprob of each
    alternative; floats by their bits."""
    logits = logits.astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)
    rank = (logprobs > chosen).sum(axis=-1, keepdims=True).astype(mx.uint32) + 1
    return mx.concatenate([chosen.view(mx.uint32), rank, alternatives(logprobs, num_top)], 1)
