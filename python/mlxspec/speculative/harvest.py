"""What is gathered of prompts as they are computed, besides their KV.

```text
prompt    p q r s t | u v w         two chunks, two steps
hidden    h h h h h   h h h
          `of` makes an array of each chunk, `take` gets it evaluated, on the host
```

A prompt that is computed again, as its row was lost, comes again from its first token.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import mlx.core as mx
import numpy as np

from mlxspec.speculative.plan import Ints

Head: TypeAlias = Callable[[mx.array], mx.array]
"""From hidden states (n, dim) to logits (n, vocab), lazily."""

Gathered: TypeAlias = np.ndarray[Any, Any]

MAX_KEY = 2**32 - 1


class Harvest(Protocol):
    """What one request gathers. Engine thread only, once it is added."""

    def of(self, start: int, hidden: mx.array, head: Head | None) -> mx.array:
        """What to keep of the tokens from position `start` on, by their hidden states (n, dim)."""
        ...

    def take(self, start: int, part: Gathered) -> None:
        """The same, evaluated."""
        ...

    def refuse(self, reason: str) -> None:
        """The model has no hidden states to show."""
        ...


class Part(NamedTuple):
    """What a step keeps for one request; an array until the step is evaluated."""

    harvest: Harvest
    start: int
    array: mx.array


class Harvests:
    """What running requests gather, by the keys in plans.

    `add` and `drop` on the event loop, before a request is submitted and when it has ended; the
    rest on the engine thread.
    """

    def __init__(self) -> None:
        self._by_key: dict[int, Harvest] = {}
        self._last_key = 0

    def add(self, harvest: Harvest) -> int:
        """Let steps find a request's harvest by the key that is returned; it is never 0."""
        self._last_key = self._last_key % MAX_KEY + 1
        self._by_key[self._last_key] = harvest
        return self._last_key

    def drop(self, key: int) -> None:
        """Forget a request's harvest, if it has one."""
        self._by_key.pop(key, None)

    def of(self, table: Ints, hidden: mx.array | None, head: Head | None) -> list[Part]:
        """What is to be kept of a step, to be evaluated with it.

        table: (n, 4), the plan's harvests. hidden: (num_tokens, dim), None if the model shows none.
        """
        parts = []
        for key, first, count, start in table.tolist():
            harvest = self._by_key.get(key)
            if harvest is None:
                continue  # its request has just ended
            if hidden is None:
                harvest.refuse("its hidden states cannot be read")
            else:
                part = harvest.of(start, hidden[first : first + count], head)
                parts.append(Part(harvest, start, part))
        return parts


def take(parts: list[Part]) -> None:
    """Hand over what was kept, evaluated."""
    for harvest, start, array in parts:
        harvest.take(start, np.array(array))
