"""Grammars: which tokens may come next, at drafted positions too.

```text
output so far   {"a":          masks     at the last token   behind draft 1   behind draft 2
drafts          1 }                       digits, ", [, ...   digits, }, ...   the end
```

A request's matcher stands behind its output. Masks of drafted positions are computed ahead and the
matcher comes back; what a step keeps moves it on. So rejected drafts need no clean-up.
"""

from itertools import compress
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import (
    allocate_token_bitmask,
    fill_next_token_bitmask_par,
    fill_next_token_bitmask_par_with_draft_tokens,
)

from mlxspec.speculative.plan import Ints, StepPlan
from mlxspec.speculative.thinking import ThinkingBudget

Bits = np.ndarray[Any, np.dtype[np.int32]]


MAX_KEY = 2**32 - 1
MAX_FORCED = 64
"""Most forced tokens told of at once; drafts are hardly longer."""


class Constraint:
    """One request's grammar, behind its output so far. Engine thread only, once it is added.

    stop_tokens end the output and are no part of it; the grammar allows the model's own ones where
    its text may end. budget: a bound on its reasoning, with a grammar or without one.
    """

    def __init__(
        self,
        matcher: LLMatcher | None,
        vocab_size: int,
        stop_tokens: list[int],
        budget: ThinkingBudget | None = None,
    ) -> None:
        self.matcher = matcher
        self.vocab_size = vocab_size
        self.stop_tokens = stop_tokens
        self.budget = budget

    def copy(self) -> "Constraint":
        """The same grammar at the same place, for another request."""
        matcher = self.matcher and self.matcher.deep_copy()
        budget = self.budget and self.budget.copy()
        return Constraint(matcher, self.vocab_size, self.stop_tokens, budget)

    @property
    def error(self) -> str:
        """Why the grammar was given up, for one that takes too much work; empty if it was not."""
        if self.matcher is None:
            return ""
        lines = self.matcher.get_error().strip().splitlines()
        return lines[0] if lines else ""

    def forced(self) -> list[int]:
        """Tokens of the text that the grammar leaves no choice of, as its tokenizer cuts it."""
        tokens: list[int] = self.matcher.compute_ff_tokens() if self.matcher else []
        return tokens[:MAX_FORCED]

    def advance(self, tokens: list[int]) -> None:
        """Take in what was generated."""
        if self.budget is not None:
            self.budget.advance(tokens)
        if self.matcher is not None:
            ends = [at for at, token in enumerate(tokens) if token in self.stop_tokens]
            self.matcher.consume_tokens(tokens[: ends[0]] if ends else tokens)

    def binds(self, drafts: list[int]) -> bool:
        """Whether anything is forbidden at the next place or behind a draft."""
        if self.matcher is not None:
            return True
        return self.budget is not None and any(it is not None for it in self.budget.forced(drafts))

    def bound(self, bits: Bits, drafts: list[int]) -> None:
        """Keep to the budget: bits (num_drafts + 1, words), of the next place and behind drafts.

        What a grammar forbids is not forced: it knows of no reasoning.
        """
        if self.budget is not None and not self.error:
            for line, token in zip(bits, self.budget.forced(drafts), strict=True):
                if token is not None and line[token // 32] >> token % 32 & 1:
                    _allow_alone(line, [token])

    def end(self, bits: Bits) -> None:
        """Allow the stop tokens alone: a grammar that was given up ends its request."""
        _allow_alone(bits, self.stop_tokens)


class Masks(NamedTuple):
    """Allowed tokens at some sampled positions, ascending: (n,) and (n, words) of 32 tokens."""

    position: np.ndarray[Any, np.dtype[np.int64]]
    bits: Bits

    def apply(self, logits: mx.array, rows: np.ndarray[Any, Any]) -> mx.array:
        """Negative infinity for all other tokens, in these rows of logits (positions, vocab)."""
        vocab, words = logits.shape[1], mx.array(self.bits.view(np.uint32))
        allowed = ((words[:, :, None] >> mx.arange(32, dtype=mx.uint32)) & 1).astype(mx.bool_)
        flat = allowed.reshape(len(self.bits), -1)[:, :vocab]
        flat = mx.pad(flat, [(0, 0), (0, vocab - flat.shape[1])])
        at = mx.array(rows)
        logits[at] = mx.where(flat, logits[at], -mx.inf)
        return logits


class Constraints:
    """The grammars of one model's running requests, by keys.

    `add` and `drop` on the event loop, before a request is submitted and when it has ended; the
    rest on the engine thread.
    """

    def __init__(self) -> None:
        self._by_key: dict[int, Constraint] = {}
        self._last_key = 0
        self._executor = LLExecutor()

    def add(self, constraint: Constraint) -> int:
        """Let steps find a request's grammar by the key that is returned; it is never 0."""
        self._last_key = self._last_key % MAX_KEY + 1
        self._by_key[self._last_key] = constraint
        return self._last_key

    def drop(self, key: int) -> str:
        """Forget a request's grammar, if it has one; returns why it was given up, or nothing."""
        constraint = self._by_key.pop(key, None)
        return constraint.error if constraint is not None else ""

    def masks(self, plan: StepPlan) -> Masks | None:
        """What the grammars allow at each position of their rows; None if all rows may go on as
        they like."""
        rows = np.flatnonzero(plan.samplers.constraint)
        asked = [self._by_key[key] for key in plan.samplers.constraint[rows].tolist()]
        binds = [
            one.binds(_drafts(plan, row)) for one, row in zip(asked, rows.tolist(), strict=True)
        ]
        rows, found = rows[binds], list(compress(asked, binds))
        if len(rows) == 0:
            return None
        counts = plan.samplers.num_drafts[rows].astype(np.int64) + 1
        firsts = np.cumsum(counts) - counts
        bits = allocate_token_bitmask(int(counts.sum()), found[0].vocab_size)
        bits[:] = -1
        drafts = [_drafts(plan, row) for row in rows.tolist()]
        work = []
        for constraint, first, its_drafts in zip(found, firsts.tolist(), drafts, strict=True):
            if constraint.error:
                constraint.end(bits[first])
            elif constraint.matcher is not None:
                work.append((constraint.matcher, first, its_drafts))
        self._fill(work, bits)
        for constraint, first, its_drafts in zip(found, firsts.tolist(), drafts, strict=True):
            if constraint.error:
                constraint.end(bits[first])
            constraint.bound(bits[first : first + len(its_drafts) + 1], its_drafts)
        begins = plan.samplers.first[rows].astype(np.int64) - firsts
        return Masks(np.repeat(begins, counts) + np.arange(len(bits)), bits)

    def _fill(self, work: list[tuple[LLMatcher, int, list[int]]], bits: Bits) -> None:
        plain = [(matcher, first) for matcher, first, drafts in work if not drafts]
        drafted = [row for row in work if row[2]]
        if plain:
            fill_next_token_bitmask_par(self._executor, plain, bits)
        if drafted:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, drafted, bits)

    def advance(self, plan: StepPlan, answer: Ints) -> None:
        """Move each grammar on by what its row keeps; `answer` is that of `run_step`."""
        num_rows = len(plan.samplers.first)
        for row in np.flatnonzero(plan.samplers.constraint):
            first = num_rows + int(plan.samplers.first[row])
            tokens = answer[first : first + int(answer[row]) + 1].tolist()
            self._by_key[int(plan.samplers.constraint[row])].advance(tokens)

    def forced(self, plan: StepPlan) -> Ints:
        """What each grammar forces next, behind what its row has kept: a count and so many tokens
        for each of the plan's rows with a grammar, in their order."""
        words: list[int] = []
        for key in plan.samplers.constraint[plan.samplers.constraint > 0].tolist():
            tokens = self._by_key[key].forced()
            words += [len(tokens), *tokens]
        return np.array(words, np.uint32)


def _allow_alone(bits: Bits, tokens: list[int]) -> None:
    bits[:] = 0
    for token in tokens:
        bits[token // 32] |= np.int32(np.uint32(1 << token % 32).view(np.int32))


def _drafts(plan: StepPlan, row: int) -> list[int]:
    first, count = int(plan.samplers.first[row]), int(plan.samplers.num_drafts[row])
    drafts: list[int] = plan.tokens[plan.sampled[first + 1 : first + 1 + count]].tolist()
    return drafts
