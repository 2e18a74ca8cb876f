"""A draft model: a smaller model, drafting token by token.

        seen before   read now   rounds
row 0   ...........   a b        d1 d2 d3
row 1   ...........   c          e1 e2 e3
row 2   .....         p q r s
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlxspec.model.attention import StepAttention
from mlxspec.model.forward import Network
from mlxspec.model.kv import Slab
from mlxspec.model.kv_form import LayerShape
from mlxspec.speculative.drafter import Draw
from mlxspec.speculative.plan import DraftPlan, Laid
from mlxspec.speculative.words import Words


class DraftModel:
    """Drafts in rounds of one forward each, without a synchronisation between them.

    network: the model, whose layers begin behind the target's. words: its tokens and the target's.
    """

    def __init__(self, network: Network, layers: Sequence[LayerShape], words: Words) -> None:
        self.network = network
        self._layers = tuple(layers)
        self._words = words

    @property
    def layers(self) -> Sequence[LayerShape]:
        """Its KV layers in each slab."""
        return self._layers

    def draft(self, slabs: Mapping[int, Slab], plan: DraftPlan, draw: Draw) -> mx.array | None:
        """See `Drafter.draft`."""
        read = _attention(slabs, plan.read, plan.read_at)
        logits = self._logits(read, mx.array(plan.read.tokens))
        if plan.num_rounds == 0:
            return None
        drafts = [draw(logits, 0)]
        at = mx.array(plan.round_at)
        for nth in range(1, plan.num_rounds):
            attention = _attention(slabs, plan.round.later(nth - 1), plan.round_at)
            tokens = mx.zeros(len(plan.round.positions), mx.uint32)
            tokens[at] = drafts[-1]
            drafts.append(draw(self._logits(attention, tokens), nth))
        return mx.stack(drafts, axis=1)

    def _logits(self, attention: StepAttention, tokens: mx.array) -> mx.array:
        return self._words.said(self.network(attention, self._words.heard(tokens)))


def _attention(slabs: Mapping[int, Slab], laid: Laid, sampled: np.ndarray) -> StepAttention:
    return StepAttention(
        slabs,
        laid.rects,
        mx.array(laid.positions.view(np.int32)),
        [int(laid.positions[rect.first]) for rect in laid.rects],
        mx.array(sampled),
    )
