"""One speculative step: compute the new tokens' KV, draw the target's tokens, count kept drafts.

             known tokens   drafts
row 0            a          b  c         samples at a, b, c: keeps 0..2 drafts
row 1            p q r                   prefill ends here: samples at r
row 2            s t u v                 prefill goes on: samples nothing
"""

from typing import TypeAlias

import mlx.core as mx
import numpy as np

from mlxspec.model.attention import StepAttention, has_backbone
from mlxspec.model.forward import Network
from mlxspec.model.kv import KVStore
from mlxspec.speculative.accept import accept_prefix
from mlxspec.speculative.constrain import Constraints
from mlxspec.speculative.drafter import Drafter
from mlxspec.speculative.draw import draw_targets, of_rows
from mlxspec.speculative.edits import Edits
from mlxspec.speculative.encoder_target import EncoderTarget
from mlxspec.speculative.forward import Forward
from mlxspec.speculative.harvest import Harvests, take
from mlxspec.speculative.logprobs import logprob_words
from mlxspec.speculative.plain_target import PlainTarget
from mlxspec.speculative.plan import Ints, Samplers, StepPlan
from mlxspec.speculative.rejection import Proposals


class Target:
    """A loaded model, its KV rows, and its drafter, whose layers lie in the same rows.

    constraints: the grammars of its running requests, by the keys in plans. harvests: what they
    gather of their prompts. rejection: whether the
    drafter's drafts are judged by the rejection rule instead of by shared noise.
    """

    def __init__(
        self,
        network: Network,
        store: KVStore,
        drafter: Drafter | None = None,
        constraints: Constraints | None = None,
        harvests: Harvests | None = None,
    ) -> None:
        self.network = network
        self.store = store
        self.drafter = drafter
        self.constraints = Constraints() if constraints is None else constraints
        self.harvests = Harvests() if harvests is None else harvests
        self.rejection = False

    @property
    def shows_hidden(self) -> bool:
        """Whether something can be gathered of prompts."""
        return has_backbone(self.network.model)

    @property
    def takes_drafter(self) -> bool:
        """Whether the rows have layers behind the network's own, for a drafter."""
        return len(self.store.layers) > len(self.network.windows)

    def forward(self, plan: StepPlan, tokens: mx.array) -> Forward:
        """Run the plan's tokens (num_tokens,), all drafts filled in; lazily."""
        samples = len(plan.sampled) > 0
        attention = StepAttention(
            self.store.slabs,
            plan.rects,
            mx.array(plan.positions.view(np.int32)),
            [int(plan.positions[rect.first]) for rect in plan.rects],
            mx.array(plan.sampled) if samples else None,
            keeps_hidden=len(plan.harvests) > 0,
        )
        logits = self.network(attention, tokens)
        parts = self.harvests.of(plan.harvests, attention.hidden, self.network.head)
        return Forward(logits if samples else None, attention.touched(), parts)


AnyTarget: TypeAlias = Target | PlainTarget | EncoderTarget


def run_step(target: AnyTarget, plan: StepPlan) -> mx.array | None:
    """Run the plan's tokens through the model; KV is written, evaluated, and stays.

    The drafter, if it has work, goes first; all of it is one graph.
    Returns (num_samplers + num_sampled + n,) uint32: per sampling row how many drafts it keeps,
    then the target's token at every sampled position, then the `logprob_words` of the rows that
    ask for them; None if no row samples. One synchronisation.
    """
    tokens, proposals = _with_drafts(target, plan)
    logits, touched, parts = target.forward(plan, tokens)
    touched += [part.array for part in parts]
    if logits is None:
        mx.eval(touched)
        take(parts)
        return None
    masks = target.constraints.masks(plan)
    edits = Edits.unpack(plan.edits)
    samplers = plan.samplers if proposals is None else proposals.others
    drawn = draw_targets(logits, samplers, plan.noise_keys, edits, masks)
    kept = _count_kept(drawn, tokens, plan)
    if proposals is not None:
        kept, drawn = proposals.settle(logits, tokens, edits, (kept, drawn))
    answer = mx.concatenate([kept, drawn])
    if plan.samplers.logprobs.any():
        answer = mx.concatenate([answer, logprob_words(logits, drawn, plan.samplers)])
    mx.eval(answer, touched)
    take(parts)
    if plan.samplers.constraint.any():
        target.constraints.advance(plan, np.asarray(answer))
    return answer


def _with_drafts(target: AnyTarget, plan: StepPlan) -> tuple[mx.array, Proposals | None]:
    """The step's tokens (num_tokens,), those that the drafter writes filled in; lazily. With them
    those drafts that the rejection rule is to judge, if it is asked for."""
    tokens = mx.array(plan.tokens)
    if plan.draft is None:
        return tokens, None
    assert isinstance(target, Target)
    assert target.drafter is not None
    proposals = Proposals(plan) if target.rejection else None

    def draw(logits: mx.array, nth: int) -> mx.array:
        how = _as_target_would(plan, nth)
        if proposals is not None:
            return proposals.draft(logits, *how)
        return draw_targets(logits, *how, exact=False)

    drafts = target.drafter.draft(target.store.slabs, plan.draft, draw)
    if drafts is not None:
        rows, nth = plan.draft.written
        first = plan.samplers.first[plan.draft.sampler[rows]]
        tokens[mx.array(plan.sampled[first + 1 + nth])] = drafts[mx.array(rows), mx.array(nth)]
    return tokens, proposals


def _as_target_would(plan: StepPlan, nth: int) -> tuple[Samplers, Ints, Edits]:
    """How the drafting rows draw their `nth` draft: as the target will there, noise and all.

    A row that verifies fewer drafts is drafted for along with the others, anyhow.
    """
    assert plan.draft is not None
    rows = plan.draft.sampler
    at = plan.samplers.first[rows] + np.minimum(nth, plan.samplers.num_drafts[rows])
    each = np.arange(len(rows), dtype=np.uint32)
    samplers = of_rows(plan.samplers, rows)._replace(first=each, num_drafts=each * np.uint32(0))
    return samplers, plan.noise_keys[at], Edits.unpack(plan.edits).among(at.astype(np.int64))


def _count_kept(drawn: mx.array, tokens: mx.array, plan: StepPlan) -> mx.array:
    """Drafts kept by each sampling row: (num_samplers,) uint32."""
    first, num_drafts = plan.samplers.first, plan.samplers.num_drafts
    longest = int(num_drafts.max())
    if longest == 0:
        return mx.zeros(len(first), mx.uint32)
    at = np.minimum(first[:, None] + np.arange(longest), len(plan.sampled) - 2)
    drafts = tokens[mx.array(plan.sampled[at + 1])]
    return accept_prefix(drawn[mx.array(at)], drafts, mx.array(num_drafts))
