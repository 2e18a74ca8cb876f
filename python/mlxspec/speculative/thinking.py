"""A bound on reasoning: behind so many tokens of it, the marker that ends it is all that may come.

```text
budget 3    <think> w  e  l  l  ,        the model would go on
allowed             *  *  *  </think>    and says what it makes of three tokens
```

What may come depends on the tokens before it alone, so drafts and batches change nothing.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Standing(NamedTuple):
    """Where a reply stands: whether it thinks, for how many tokens, and how much of the marker that
    ends it was forced already. tail: its last tokens, as many as a marker has."""

    thinks: bool
    spent: int = 0
    closing: int = 0
    tail: tuple[int, ...] = ()


class ThinkingBudget:
    """Of one request, behind its output so far. Engine thread only, once it is added.

    start, end: the model's markers as tokens. thinks: whether the prompt ends with the first one.
    """

    def __init__(
        self, max_tokens: int, start: Sequence[int], end: Sequence[int], *, thinks: bool
    ) -> None:
        self._max_tokens = max_tokens
        self._start, self._end = tuple(start), tuple(end)
        self._standing = Standing(thinks)

    def copy(self) -> "ThinkingBudget":
        """The same budget at the same place, for another request."""
        other = ThinkingBudget(self._max_tokens, self._start, self._end, thinks=False)
        other._standing = self._standing
        return other

    def forced(self, drafts: Iterable[int]) -> list[int | None]:
        """The only token that may come next, or None for any: now, and behind each draft."""
        standing, found = self._standing, []
        for draft in drafts:
            found.append(self._only(standing))
            standing = self._after(standing, draft)
        return [*found, self._only(standing)]

    def advance(self, tokens: Iterable[int]) -> None:
        """Take in what was generated."""
        for token in tokens:
            self._standing = self._after(self._standing, token)

    def _only(self, standing: Standing) -> int | None:
        over = standing.thinks and standing.spent >= self._max_tokens
        return self._end[standing.closing] if over else None

    def _after(self, standing: Standing, token: int) -> Standing:
        longest = max(len(self._start), len(self._end))
        tail = (*standing.tail, token)[-longest:]
        if not standing.thinks:
            return Standing(tail[-len(self._start) :] == self._start, tail=tail)
        if tail[-len(self._end) :] == self._end:
            return Standing(False, tail=tail)
        closing = standing.closing + 1 if self._only(standing) == token else 0
        return Standing(True, standing.spent + 1, closing, tail)
