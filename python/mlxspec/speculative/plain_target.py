"""A model that is decoded plainly: through mlx-lm's own caches, without drafts.

For models whose state our KV rows cannot hold. Prompts are read row by row; rows that decode are
one batch per slab, where the model's caches can be merged.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlxspec.model.self_check import batches
from mlxspec.model.state import Caches, StateStore, arrays
from mlxspec.speculative.constrain import Constraints
from mlxspec.speculative.forward import Forward
from mlxspec.speculative.harvest import Harvests
from mlxspec.speculative.plan import StepPlan


class Line(NamedTuple):
    """One row's part of a step: the step's tokens `[first, stop)`, behind `seen` earlier ones."""

    slab: int
    slot: int
    first: int
    stop: int
    seen: int


class PlainTarget:
    """A loaded model and the states of its rows. See `Target` for what its parts are."""

    drafter = None
    shows_hidden = False

    def __init__(
        self,
        model: Module,
        vocab: int,
        constraints: Constraints | None = None,
        harvests: Harvests | None = None,
    ) -> None:
        self.store = StateStore(model)
        self.harvests = Harvests() if harvests is None else harvests
        self.constraints = Constraints() if constraints is None else constraints
        self.batches = batches(model, vocab)
        """Whether rows can be decoded together: found out by trying."""
        self._model = model

    def forward(self, plan: StepPlan, tokens: mx.array) -> Forward:
        """See `Target.forward`. The plan has no drafts and no padding; nothing can be gathered."""
        parts = self.harvests.of(plan.harvests, None, None)
        sampled = set(plan.sampled.tolist())
        decoding: dict[int, list[Line]] = defaultdict(list)
        logits: dict[int, mx.array] = {}
        touched: list[mx.array] = []

        def run(lines: list[Line], caches: Caches) -> None:
            rows = mx.stack([tokens[line.first : line.stop] for line in lines])
            computed = self._model(rows, cache=caches)
            for row, line in enumerate(lines):
                own = sampled.intersection(range(line.first, line.stop))
                logits.update({at: computed[row, at - line.first] for at in own})
            touched.extend(arrays(caches))

        for line in _lines(plan):
            if self.batches and line.stop - line.first == 1 and line.seen and line.first in sampled:
                decoding[line.slab].append(line)
            else:
                run([line], self.store.row(line.slab, line.slot, line.seen))
        for slab, lines in decoding.items():
            if len(lines) == 1:
                run(lines, self.store.row(slab, lines[0].slot, lines[0].seen))
            else:
                run(lines, self.store.batch(slab, [line.slot for line in lines]))
        if not sampled:
            return Forward(None, touched, parts)
        return Forward(mx.stack([logits[at] for at in plan.sampled.tolist()]), touched, parts)


def _lines(plan: StepPlan) -> Iterator[Line]:
    """The step's rows one by one."""
    for rect in plan.rects:
        for row in range(rect.rows):
            first = rect.first + row * rect.width
            seen = int(plan.positions[first])
            yield Line(rect.slab, rect.slot + row, first, first + rect.width, seen)
