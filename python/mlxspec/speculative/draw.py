"""The target's own tokens at a step's sampled positions, drawn as each row's request asks."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlxspec.model.cpu_math import argmax
from mlxspec.speculative.constrain import Masks
from mlxspec.speculative.edits import Edits, Positions
from mlxspec.speculative.plan import Ints, Samplers
from mlxspec.speculative.sample import Truncation, Xtc, pick, weigh


def draw_targets(
    logits: mx.array,
    samplers: Samplers,
    noise_keys: Ints,
    edits: Edits,
    masks: Masks | None = None,
    *,
    exact: bool = True,
) -> mx.array:
    """The target's own token (num_sampled,) uint32 at every sampled position.

    logits: (num_sampled, vocab), the positions of a sampling row one after another.
    noise_keys: (num_sampled, 2). masks: what grammars allow. exact: see `draw`.
    Greedy rows take the largest logit; only rows that ask for more pay for more.
    """
    tokens = argmax(logits).astype(mx.uint32)
    if not (samplers.temperature.any() or len(edits.kind) or masks):
        return tokens
    row = samplers.of_positions()
    shaped = samplers.temperature[row] > 0
    shaped[edits.position] = True
    if masks is not None:
        shaped[masks.position] = True
    own = np.flatnonzero(shaped)
    at, edits = mx.array(own), edits.among(own)
    edited = logits[at].astype(mx.float32)
    if masks is not None:
        edited = masks.apply(edited, np.searchsorted(own, masks.position))
    edited = edits.apply(edited)
    how = of_rows(samplers, row[own])
    tokens[at] = _draw(edited, how, noise_keys[own], edits, exact=exact)
    return tokens


def target_weights(
    logits: mx.array,
    samplers: Samplers,
    noise_keys: Ints,
    edits: Edits,
    at: Positions,
    *,
    exact: bool = True,
) -> mx.array:
    """What each token weighs where the target draws at random: (positions, vocab), see `weigh`.

    at: (positions,) such positions, ascending, of rows without a grammar. The others as for
    `draw_targets`.
    """
    how = of_rows(samplers, samplers.of_positions()[at])
    edits = edits.among(at)
    edited = edits.apply(logits[mx.array(at)].astype(mx.float32))
    return _weigh(edited, how, noise_keys[at], edits, exact=exact)


def of_rows(samplers: Samplers, row: np.ndarray[Any, Any]) -> Samplers:
    """One entry for each of the given rows."""
    return Samplers._make(column[row] for column in samplers)


def _draw(
    logits: mx.array, per_position: Samplers, noise_keys: Ints, edits: Edits, *, exact: bool
) -> mx.array:
    """Tokens (positions,) uint32 of edited logits (positions, vocab); samplers by position."""
    tokens = argmax(logits).astype(mx.uint32)
    random = np.flatnonzero(per_position.temperature > 0)
    if len(random) == 0:
        return tokens
    how, keys = of_rows(per_position, random), noise_keys[random]
    at = mx.array(random)
    weights = _weigh(logits[at], how, keys, edits.among(random), exact=exact)
    tokens[at] = pick(weights, mx.array(keys))
    return tokens


def _weigh(
    logits: mx.array, how: Samplers, noise_keys: Ints, edits: Edits, *, exact: bool
) -> mx.array:
    """Weights of edited logits (positions, vocab), all of them with a temperature."""
    truncation = Truncation(
        mx.array(how.temperature),
        mx.array(how.top_p),
        mx.array(how.min_p),
        mx.array(how.top_k.view(np.int32)),
    )
    sort = bool(((how.top_p < 1) | (how.top_k > 0)).any())
    xtc = None
    if how.xtc_probability.any():
        spared = edits.spared(tuple(logits.shape))
        xtc = Xtc(mx.array(how.xtc_probability), mx.array(how.xtc_threshold), spared)
    return weigh(logits, mx.array(noise_keys), truncation, sort=sort, xtc=xtc, exact=exact)
