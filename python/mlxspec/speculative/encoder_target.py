"""A model that reads texts whole and generates nothing: it has no rows, and so no KV."""

import mlx.core as mx
import numpy as np

from mlxspec.model.encoder import Encoder, Texts
from mlxspec.model.kv import Rect
from mlxspec.speculative.constrain import Constraints
from mlxspec.speculative.forward import Forward
from mlxspec.speculative.harvest import Harvests
from mlxspec.speculative.plan import Ints, StepPlan


class NoRows:
    """The rows of a model that keeps nothing: the scheduler's books alone."""

    bytes_per_token = 0
    slabs: tuple[()] = ()

    def create(self, slab: int, slots: int, capacity: int) -> None:
        """Nothing is made."""

    def drop(self, slab: int) -> None:
        """Nothing was made."""

    def copy(self, source: tuple[int, int], target: tuple[int, int], num_tokens: int) -> None:
        """Nothing lies there."""


class EncoderTarget:
    """A loaded encoder. See `Target` for what its parts are."""

    drafter = None
    shows_hidden = True

    def __init__(self, model: Encoder, harvests: Harvests | None = None) -> None:
        self.store = NoRows()
        self.constraints = Constraints()
        self.harvests = Harvests() if harvests is None else harvests
        self._model = model

    def forward(self, plan: StepPlan, tokens: mx.array) -> Forward:
        """See `Target.forward`. Every row of a rectangle is a text, whole; nobody samples."""
        masks = [_mask(rect, _lengths(rect, plan.harvests)) for rect in plan.rects]
        positions = mx.array(plan.positions.view(np.int32))
        hidden = self._model(tokens, positions, self._types(plan), Texts(plan.rects, masks))
        head = self._model.head if self._model.scores else None
        return Forward(None, [hidden], self.harvests.of(plan.harvests, hidden, head))

    def _types(self, plan: StepPlan) -> mx.array:
        """1 for the tokens of a second text: those behind the first separator of a pair."""
        types = np.zeros(len(plan.tokens), np.int32)
        if self._model.scores:
            for rect in plan.rects:
                rows = plan.tokens[rect.first : rect.stop].reshape(rect.rows, rect.width)
                seen = np.cumsum(rows == self._model.sep_token, axis=1) - (
                    rows == self._model.sep_token
                )
                types[rect.first : rect.stop] = (seen > 0).reshape(-1)
        return mx.array(types)


def _lengths(rect: Rect, harvests: Ints) -> Ints:
    """Tokens of each text in the rectangle, but for padding; a row of padding alone counts one."""
    lengths = np.ones(rect.rows, np.uint32)
    for _, first, count, _ in harvests.tolist():
        if rect.first <= first < rect.stop:
            lengths[(first - rect.first) // rect.width] = count
    return lengths


def _mask(rect: Rect, lengths: Ints) -> mx.array | None:
    if (lengths == rect.width).all():
        return None
    return mx.array((np.arange(rect.width) < lengths[:, None])[:, None, None, :])
