"""One vector for a text: its tokens' hidden states, pooled.

mean   of all tokens (Reimers, Gurevych 2019, section 3)
cls    the first token's, for encoders that were trained so
last   the last token's, the only one that has seen all others in a causal model
"""

from typing import Any, Final, Literal, get_args

import mlx.core as mx
import numpy as np

from mlxspec.speculative.harvest import Gathered, Head

Pooling = Literal["mean", "cls", "last", "score"]
POOLINGS: Final[tuple[Pooling, ...]] = get_args(Pooling)

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Pooled:
    """A text's vector (dim,) float32, not normalised, once all of its tokens are computed.

    `score` is for cross-encoders: what their head says of the first token, (1,).
    """

    def __init__(self, pooling: Pooling, num_tokens: int) -> None:
        self._pooling = pooling
        self._num_tokens = num_tokens
        self._sum: Floats | None = None
        self.refusal = ""
        """Why there will be no vector."""

    def of(self, start: int, hidden: mx.array, head: Head | None) -> mx.array:
        """See `Harvest.of`."""
        match self._pooling:
            case "mean":
                return hidden.astype(mx.float32).sum(axis=0)
            case "last":
                return hidden[-1].astype(mx.float32)
            case "cls":
                return hidden[0].astype(mx.float32)
            case "score":
                assert head is not None
                return head(hidden[:1])[0].astype(mx.float32)

    def take(self, start: int, part: Gathered) -> None:
        """See `Harvest.take`."""
        match self._pooling:
            case "mean":
                self._sum = part if start == 0 or self._sum is None else self._sum + part
            case "last":
                self._sum = part
            case "cls" | "score":
                self._sum = part if start == 0 else self._sum

    def refuse(self, reason: str) -> None:
        """See `Harvest.refuse`."""
        self.refusal = reason

    @property
    def vector(self) -> Floats:
        """The pooled vector; its request has ended."""
        assert self._sum is not None
        return self._sum / np.float32(self._num_tokens) if self._pooling == "mean" else self._sum
