"""The rejection rule of speculative sampling: keeps the distribution, not the tokens.

    draft x drawn from q       kept with probability min(1, p(x) / q(x))
    the first one not kept     gives way to a token drawn from max(p - q, 0)
    behind drafts all kept     a token is drawn from p

Leviathan et al. (arXiv 2211.17192), Chen et al. (arXiv 2302.01318). p is what the target draws
from, q what the draft model drew from, both edited and truncated as the request asks. Each of the
three draws has noise of its own, which belongs to (seed, position).
"""

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlxspec.speculative.draw import draw_targets, target_weights
from mlxspec.speculative.edits import Edits, Positions
from mlxspec.speculative.plan import Ints, Samplers, StepPlan
from mlxspec.speculative.sample import pick, uniform

DRAFT_NOISE = (0x44524654, 0x7F4A7C15)
COIN_NOISE = (0x434F494E, 0xF39CC060)
"""Turn a position's noise key into others: a draft, and whether it is kept, must be independent."""


class Verdict(NamedTuple):
    """Drafts kept (rows,), and tokens (rows, longest + 1), of which so many and one more count."""

    kept: mx.array
    tokens: mx.array


def judge(
    target: mx.array, proposed: mx.array, drafts: mx.array, num_drafts: mx.array, keys: mx.array
) -> Verdict:
    """Keep or replace the drafts of some rows.

    target: (rows, longest + 1, vocab) weights at each draft and behind the last. proposed: (rows,
    longest, vocab) weights that the drafts (rows, longest) were drawn by. num_drafts: (rows,),
    drafts that are real; the rest is padding. keys: (rows, longest + 1, 2) of the positions.
    """
    longest, vocab = drafts.shape[1], target.shape[2]
    p, q = mx.softmax(target, axis=-1), mx.softmax(proposed, axis=-1)
    places = mx.arange(longest + 1)
    coins = uniform((keys[:, :-1] ^ mx.array(COIN_NOISE, mx.uint32)).reshape(-1, 2))
    at = drafts[:, :, None]
    p_draft, q_draft = (mx.take_along_axis(it, at, axis=2)[:, :, 0] for it in (p[:, :-1], q))
    right = (coins.reshape(drafts.shape) * q_draft < p_draft) & (places[:-1] < num_drafts[:, None])
    kept = mx.cumprod(right.astype(mx.uint32), axis=1).sum(axis=1)
    left = mx.maximum(p[:, :-1] - q, 0)
    # Nothing is left where p = q; there a draft is rejected by rounding alone.
    left = mx.where(left.sum(axis=-1, keepdims=True) > 0, left, p[:, :-1])
    left = mx.concatenate([left, p[:, -1:]], axis=1)
    behind = (places == num_drafts[:, None])[:, :, None]
    weights = mx.log(mx.where(behind, p, left))
    drawn = pick(weights.reshape(-1, vocab), keys.reshape(-1, 2)).reshape(-1, longest + 1)
    padded = mx.pad(drafts, [(0, 0), (0, 1)])
    return Verdict(kept.astype(mx.uint32), mx.where(places < kept[:, None], padded, drawn))


class Proposals:
    """The drafts of one step that are judged by this rule: a draft model's, drawn at random."""

    def __init__(self, plan: StepPlan) -> None:
        assert plan.draft is not None
        self._plan = plan
        random = plan.samplers.temperature[plan.draft.sampler] > 0
        self._drafted: Positions = np.flatnonzero(random & (plan.draft.num_drafts > 0))
        self._weights: list[mx.array] = []

    @property
    def rows(self) -> Ints:
        """The sampling rows that are judged, in the order of the drafting rows."""
        assert self._plan.draft is not None
        rows: Ints = self._plan.draft.sampler[self._drafted]
        return rows

    @property
    def others(self) -> Samplers:
        """The plan's samplers, without a draw for the rows that are judged."""
        return _greedy(self._plan.samplers, self.rows)

    def draft(
        self, logits: mx.array, samplers: Samplers, noise_keys: Ints, edits: Edits
    ) -> mx.array:
        """The next draft (drafting rows,) uint32, and remember what it was drawn from."""
        others = _greedy(samplers, self._drafted)
        drafts = draw_targets(logits, others, noise_keys, edits, exact=False)
        if len(self._drafted) > 0:
            at = self._drafted
            weights = target_weights(logits, samplers, noise_keys, edits, at, exact=False)
            keys = mx.array(noise_keys[at]) ^ mx.array(DRAFT_NOISE, mx.uint32)
            drafts[mx.array(at)] = pick(weights, keys)
            self._weights.append(weights)
        return drafts

    def settle(
        self, logits: mx.array, tokens: mx.array, edits: Edits, answer: tuple[mx.array, mx.array]
    ) -> tuple[mx.array, mx.array]:
        """A step's kept counts and drawn tokens, with the verdicts on these drafts put in.

        logits: (num_sampled, vocab). tokens: (num_tokens,), the step's with all drafts.
        """
        if len(self._drafted) == 0:
            return answer
        kept, drawn = answer
        plan, rows = self._plan, self.rows
        first, num_drafts = plan.samplers.first[rows], plan.samplers.num_drafts[rows]
        longest = int(num_drafts.max())
        nth = np.minimum(np.arange(longest + 1), num_drafts[:, None])
        at = (first[:, None] + nth).astype(np.int64)
        positions, where = np.unique(at, return_inverse=True)
        weights = target_weights(logits, plan.samplers, plan.noise_keys, edits, positions)
        verdict = judge(
            weights[mx.array(where.reshape(at.shape))],
            mx.stack(self._weights[:longest], axis=1),
            tokens[mx.array(plan.sampled[np.minimum(at[:, :-1] + 1, len(plan.sampled) - 1)])],
            mx.array(num_drafts),
            mx.array(plan.noise_keys[at]),
        )
        kept[mx.array(rows)] = verdict.kept
        row, column = np.nonzero(np.arange(longest + 1) <= num_drafts[:, None])
        drawn[mx.array(at[row, column])] = verdict.tokens[mx.array(row), mx.array(column)]
        return kept, drawn


def _greedy(samplers: Samplers, rows: Ints | Positions) -> Samplers:
    temperature = samplers.temperature.copy()
    temperature[rows] = 0
    return samplers._replace(temperature=temperature)
