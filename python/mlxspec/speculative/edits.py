"""Changes of single logits before a token is drawn: bias, bans, allowed tokens, penalties.

The scheduler knows all tokens, drafts included, and says for each sampled position which logits
change and how (`edits.rs`). In one order everywhere: allowed tokens, bias and bans, penalties.
"""

from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np

from mlxspec.speculative.plan import Floats, Ints

Positions: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

ALLOW, ADD, PENALIZE, SPARE = range(4)
"""Kinds of edits, as `pack_edit` numbers them."""


class Edits(NamedTuple):
    """One entry per changed logit, arrays of shape (n,). `first` and `second` mean, by kind:

    ADD: what to add, nothing. PENALIZE: the factor that divides a positive logit and multiplies a
    negative one, what to subtract. ALLOW and SPARE: nothing.
    """

    kind: Ints
    position: Positions
    token: Ints
    first: Floats
    second: Floats

    @classmethod
    def unpack(cls, runs: Ints) -> "Edits":
        """From (n, 6) words: kind, first position, number of positions, token, two floats."""
        lens = runs[:, 2].astype(np.int64)
        begins = np.cumsum(lens) - lens
        cells = np.repeat(runs, lens, axis=0)
        position = cells[:, 1] + np.arange(len(cells)) - np.repeat(begins, lens)
        floats = np.ascontiguousarray(cells[:, 4:]).view(np.float32)
        return cls(cells[:, 0], position, cells[:, 3], floats[:, 0], floats[:, 1])

    def among(self, positions: Positions) -> "Edits":
        """The edits of some positions (ascending), which are numbered anew from 0 on."""
        index = np.searchsorted(positions, self.position)
        found = np.flatnonzero(np.isin(self.position, positions))
        return self._replace(position=index)._take(found)

    def _take(self, which: Positions) -> "Edits":
        return Edits._make(column[which] for column in self)

    def _of(self, kind: int) -> "Edits":
        return self._take(np.flatnonzero(self.kind == kind))

    def apply(self, logits: mx.array) -> mx.array:
        """Edited logits (positions, vocab), float32. Position and token must exist."""
        if len(self.kind) == 0:
            return logits
        logits = self._of(ALLOW)._allow(logits)
        logits = self._of(ADD)._add(logits)
        return self._of(PENALIZE)._penalize(logits)

    def _allow(self, logits: mx.array) -> mx.array:
        """Where some tokens are allowed, all others get negative infinity."""
        if len(self.kind) == 0:
            return logits
        free = np.ones((logits.shape[0], 1), np.bool_)
        free[self.position] = False
        return mx.where(self._mask(logits.shape) | mx.array(free), logits, -mx.inf)

    def _add(self, logits: mx.array) -> mx.array:
        if len(self.kind) == 0:
            return logits
        return logits.at[self._cells()].add(mx.array(self.first))

    def _penalize(self, logits: mx.array) -> mx.array:
        if len(self.kind) == 0:
            return logits
        cells, factor = self._cells(), mx.array(self.first)
        before = logits[cells]
        after = mx.where(before < 0, before * factor, before / factor) - mx.array(self.second)
        logits[cells] = after
        return logits

    def spared(self, shape: tuple[int, ...]) -> mx.array | None:
        """Tokens (positions, vocab) that XTC must not drop; None if there are none."""
        spared = self._of(SPARE)
        return spared._mask(shape) if len(spared.kind) else None

    def _mask(self, shape: tuple[int, ...]) -> mx.array:
        mask = mx.zeros(shape, mx.bool_)
        mask[self._cells()] = True
        return mask

    def _cells(self) -> tuple[mx.array, mx.array]:
        return mx.array(self.position.astype(np.int32)), mx.array(self.token)
