"""How likely the target found its tokens, for the requests that ask.

Natural logarithms of the softmax of the model's own logits: before edits, temperature and
truncation, so they tell of the model and not of the request.
"""

import mlx.core as mx
import numpy as np

from mlxspec.speculative.plan import Samplers


def logprob_words(logits: mx.array, tokens: mx.array, samplers: Samplers) -> mx.array:
    """Packed logprobs (n,) uint32 of the rows that ask for them, position by position.

    logits: (num_sampled, vocab). tokens: (num_sampled,), those that were drawn.
    Per position: the token's logprob, then id and logprob of each alternative, likeliest first;
    floats by their bits (`TokenLogprobs::unpack` reads them).
    """
    wanted = samplers.logprobs[samplers.of_positions()].astype(np.int64)
    own = np.flatnonzero(wanted)
    wanted, at = wanted[own] - 1, mx.array(own)
    scores = logits[at].astype(mx.float32)
    logprobs = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logprobs, tokens[at][:, None], axis=-1)
    table = mx.concatenate([chosen.view(mx.uint32), alternatives(logprobs, int(wanted.max()))], 1)
    width = table.shape[1]
    # Rows ask for different numbers of alternatives: each gets the beginning of its line.
    asked = np.flatnonzero((np.arange(width) < 1 + 2 * wanted[:, None]).reshape(-1))
    return table.reshape(-1)[mx.array(asked)]


def alternatives(logprobs: mx.array, count: int) -> mx.array:
    """Ids and logprobs of the likeliest tokens, by turns: (positions, 2 * count) uint32."""
    if count == 0:
        return mx.zeros((logprobs.shape[0], 0), mx.uint32)
    ids = mx.argpartition(-logprobs, count - 1, axis=-1)[:, :count]
    order = mx.argsort(-mx.take_along_axis(logprobs, ids, axis=-1), axis=-1)
    ids = mx.take_along_axis(ids, order, axis=-1)
    values = mx.take_along_axis(logprobs, ids, axis=-1)
    pairs = mx.stack([ids.astype(mx.uint32), values.view(mx.uint32)], axis=-1)
    return pairs.reshape(logprobs.shape[0], 2 * count)
