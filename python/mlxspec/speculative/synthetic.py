"""Acceptance at a chosen rate, right or wrong: to measure what speculation would be worth.

Forward passes, drafts and bookkeeping run for real; only what verification decided is overruled.
The text that comes out is not the model's.
"""

import numpy as np

from mlxspec.speculative.plan import Ints, StepPlan


def force_acceptance(answer: Ints, plan: StepPlan, rate: float) -> Ints:
    """The answer of a step, (num_samplers + num_sampled,), had each draft been kept at `rate`.

    A draft that is kept is the row's token, as the KV behind it was computed for it; where a draft
    model wrote it on the device, the target's own token stands for it. The coin of a position comes
    from its noise key, so a seed decides all.
    """
    written = set() if plan.draft is None else set(plan.draft.sampler.tolist())
    num_rows = len(plan.samplers.first)
    kept, tokens = answer[:num_rows].copy(), answer[num_rows:].copy()
    spans = zip(plan.samplers.first.tolist(), plan.samplers.num_drafts.tolist(), strict=True)
    for row, (first, num_drafts) in enumerate(spans):
        coins = plan.noise_keys[first : first + num_drafts, 0] / 2.0**32
        count = int(np.cumprod(coins < rate).sum())
        kept[row] = count
        if row in written:
            continue
        tokens[first : first + count] = plan.tokens[plan.sampled[first + 1 : first + 1 + count]]
    return np.concatenate([kept, tokens])
