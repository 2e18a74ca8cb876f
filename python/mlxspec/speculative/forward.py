"""What one forward of a step brings."""

from typing import NamedTuple

import mlx.core as mx

from mlxspec.speculative.harvest import Part


class Forward(NamedTuple):
    """Lazily: logits (num_sampled, vocab), None if no position is sampled; the arrays that were
    written and are to be evaluated with them; what is gathered of prompts."""

    logits: mx.array | None
    touched: list[mx.array]
    gathered: list[Part]
