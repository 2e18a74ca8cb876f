"""Which drafts a row keeps."""

import mlx.core as mx


def accept_prefix(
    target_tokens: mx.array, draft_tokens: mx.array, num_drafts: mx.array
) -> mx.array:
    """Count the drafts each row keeps: the longest prefix the target would have drawn itself.

    target_tokens: (rows, longest), the target's own token at each drafted position, drawn with
        that position's noise (greedy: the argmax).
    draft_tokens: (rows, longest). num_drafts: (rows,), drafts that are real; the rest is padding.
    Returns (rows,) uint32 in 0..=num_drafts; the row's next token is the target's behind them.

    As the noise belongs to (seed, position), the kept tokens are those that plain decoding would
    have drawn, whatever was drafted: docs/speculation.md, after arXiv 2408.07978.
    """
    real = mx.arange(draft_tokens.shape[1]) < num_drafts[:, None]
    agrees = (target_tokens == draft_tokens) & real
    return mx.cumprod(agrees.astype(mx.uint32), axis=1).sum(axis=1).astype(mx.uint32)
