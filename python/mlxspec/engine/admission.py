"""How full the queue is, and when to come back. For the event loop's thread."""

import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

from mlxspec.config import Config
from mlxspec.errors import QueueFullError
from mlxspec.model_tables import GroupConfig, ModelConfig

MAX_RETRY_SECONDS = 60
WINDOW_SECONDS = 60.0
WINDOW_REQUESTS = 64


class DrainRate:
    """How fast requests have been ending lately."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=WINDOW_REQUESTS)

    def ended(self, now: float) -> None:
        """One more has ended."""
        self._ends.append(now)

    def seconds_for(self, count: int, now: float) -> int:
        """Whole seconds, 1 to 60, until so many more should have ended."""
        while self._ends and self._ends[0] < now - WINDOW_SECONDS:
            self._ends.popleft()
        if not self._ends:
            return 1
        each = (now - self._ends[0]) / len(self._ends)
        return max(1, min(MAX_RETRY_SECONDS, ceil(each * count)))


class Bound(NamedTuple):
    """Most requests of these models, by index, that may run and wait: a model's or a group's."""

    name: str
    models: frozenset[int]
    max_running: int
    max_waiting: int


def bounds_of(config: Config) -> list[Bound]:
    """The bounds that models and groups have of their own."""
    ids = [model.id for model in config.models]
    tables: list[tuple[str, Sequence[str], ModelConfig | GroupConfig]] = [
        (f"model {it.id!r}", [it.id], it) for it in config.models
    ]
    tables += [(f"group {name!r}", it.members, it) for name, it in config.groups.items()]
    instances = {model.id: model.instances for model in config.models}
    return [
        Bound(
            name=name,
            models=frozenset(ids.index(id_) for id_ in members),
            max_running=table.max_running
            or config.scheduler.max_running * sum(instances[id_] for id_ in members),
            max_waiting=table.max_waiting,
        )
        for name, members, table in tables
        if table.max_waiting is not None
    ]


class Admission:
    """How many requests of each model there are, and how many prompt tokens wait for their first
    token; bounds on both."""

    def __init__(self, max_tokens: int, bounds: Iterable[Bound] = ()) -> None:
        self._max_tokens = max_tokens
        self.bounds = tuple(bounds)
        self._queued: dict[int, int] = {}
        self._num_tokens = 0
        self._rate = DrainRate()
        self._models: dict[int, int] = {}
        self._of_model: Counter[int] = Counter()
        self.num_refused = 0
        """Requests refused because a queue was full."""

    def num_requests(self, model: int) -> int:
        """Requests of a model that have not ended."""
        return self._of_model[model]

    def check(self, num_tokens: int, model: int) -> None:
        """QueueFullError if this prompt is too much, an empty queue takes any; or this request, for
        its model or a group of it."""
        for bound in self.bounds:
            if model in bound.models:
                self._check_bound(bound)
        if self._queued and self._num_tokens + num_tokens > self._max_tokens:
            raise self.refused(
                f"{self._num_tokens} prompt tokens are queued, {num_tokens} more would exceed "
                f"{self._max_tokens}: try again later or raise max_queued_tokens"
            )

    def _check_bound(self, bound: Bound) -> None:
        there = sum(self._of_model[model] for model in bound.models)
        if there >= bound.max_running + bound.max_waiting:
            raise self.refused(
                f"{bound.name} has {there} requests, of which {bound.max_running} may run and "
                f"{bound.max_waiting} wait: try again later or raise its max_waiting"
            )

    def refused(self, text: str) -> QueueFullError:
        """The error of a request that finds a queue full; it is counted."""
        self.num_refused += 1
        return QueueFullError(text, retry_after=self.retry_after())

    def entered(self, request_id: int, num_tokens: int, model: int) -> None:
        """The request is queued."""
        self._models[request_id] = model
        self._of_model[model] += 1
        self._queued[request_id] = num_tokens
        self._num_tokens += num_tokens

    def left(self, request_id: int) -> None:
        """The request has its first token, or has ended. Idempotent."""
        self._num_tokens -= self._queued.pop(request_id, 0)

    def ended(self, request_id: int) -> None:
        """The request has ended, however."""
        self._of_model[self._models.pop(request_id)] -= 1
        self._rate.ended(time.monotonic())

    def retry_after(self) -> int:
        """Seconds until those queued now should have ended."""
        return self._rate.seconds_for(max(1, len(self._queued)), time.monotonic())
