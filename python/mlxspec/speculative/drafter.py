"""What a drafter is: whatever writes drafts on the device, in the step that verifies them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import mlx.core as mx

from mlxspec.model.kv import Slab
from mlxspec.model.kv_form import LayerShape
from mlxspec.speculative.plan import DraftPlan

Draw: TypeAlias = Callable[[mx.array, int], mx.array]
"""`draw(logits, nth)`: the `nth` draft (rows,) uint32 of all drafting rows, by their logits (rows,
vocab), drawn as the target will draw there: same parameters, same noise."""


class Drafter(Protocol):
    """Reads known tokens and drafts behind them. Engine thread only.

    Its KV lies in the target's slabs, behind the target's layers, so that a row that grows, moves
    or ends takes it along.
    """

    @property
    def layers(self) -> Sequence[LayerShape]:
        """The KV layers that it needs in each slab."""
        ...

    def draft(self, slabs: Mapping[int, Slab], plan: DraftPlan, draw: Draw) -> mx.array | None:
        """Drafts (rows, plan.num_rounds) uint32 of the drafting rows, lazily; None without any.

        KV is written to `slabs`, to be evaluated with the step. Whatever this raises costs the
        step, and the target its drafter, but no request.
        """
        ...
