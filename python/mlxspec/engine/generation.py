"""One running request as its client sees it: a stream of text deltas, then usage and metrics."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from mlxspec.engine.detokenize import Detokenizer, StopStrings
from mlxspec.engine.request import (
    Delta,
    FinishReason,
    RequestMetrics,
    SpeculationMetrics,
    Usage,
)
from mlxspec.errors import EngineError


class End(NamedTuple):
    """How a request ended, as the scheduler tells it."""

    reason: FinishReason
    message: str
    queued_seconds: float
    preemptions: int
    num_draft_tokens: int
    accepted: list[int]


class Generation:
    """Event loop only. Iterate for deltas; `close` at any time frees the request's memory."""

    def __init__(
        self,
        *,
        num_prompt_tokens: int,
        detokenizer: Detokenizer,
        stop: tuple[str, ...],
        stop_tokens: frozenset[int],
        min_tokens: int,
        abort: Callable[[], None],
    ) -> None:
        self._detokenizer = detokenizer
        self._stop = StopStrings(stop)
        self._stop_tokens = stop_tokens
        self._min_tokens = min_tokens
        self._abort = abort
        self._tokens: deque[int] = deque()
        self._end: End | None = None
        self._news = asyncio.Event()
        self._closed = False
        self._prompt_tokens = num_prompt_tokens
        self._completion_tokens = 0
        self._submitted = time.monotonic()
        self._first_token: float | None = None
        self._last_token: float | None = None

    def deliver(self, tokens: list[int], end: End | None) -> None:
        """Take news from the scheduler."""
        if tokens:
            self._last_token = time.monotonic()
            self._first_token = self._first_token or self._last_token
            self._tokens.extend(tokens)
        if end is not None:
            self._end = end
        self._news.set()

    def close(self) -> None:
        """End the request if it still runs. Idempotent, safe at any time."""
        if not self._closed and self._end is None:
            self._abort()
        self._closed = True

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Deltas until the one with a finish reason; raises EngineError if the step failed."""
        while True:
            delta = self._next_delta()
            if delta.finish_reason and self._end is None:
                # A stop string: the scheduler's own end, with what it measured, is a step away.
                await self._until_ended()
            if delta.text or delta.finish_reason:
                yield delta
            if delta.finish_reason:
                return
            if not self._tokens and self._end is None:
                self._news.clear()
                await self._news.wait()

    async def _until_ended(self) -> None:
        while self._end is None:
            self._news.clear()
            await self._news.wait()

    def _next_delta(self) -> Delta:
        """Everything that has come since the last one."""
        pieces: list[str] = []
        start = self._completion_tokens
        while self._tokens:
            token = self._tokens.popleft()
            self._completion_tokens += 1
            text = "" if token in self._stop_tokens else self._detokenizer.push(token)
            early = self._completion_tokens <= self._min_tokens
            safe, stopped = (text, False) if early else self._stop.push(text)
            pieces.append(safe)
            if stopped:
                self._tokens.clear()
                self.close()
                return self._delta(pieces, start, "stop")
        if self._end is None:
            return self._delta(pieces, start, None)
        if self._end.reason == "error":
            raise EngineError(
                "the request could not be finished: send it again; the server's log has the cause"
            )
        pieces.append(self._stop.flush())
        return self._delta(pieces, start, self._end.reason)

    def _delta(self, pieces: list[str], start: int, finish: FinishReason | None) -> Delta:
        return Delta(
            text="".join(pieces),
            num_tokens=self._completion_tokens - start,
            finish_reason=finish,
            stop=self._stop.matched,
        )

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._submitted

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens)

    @property
    def metrics(self) -> RequestMetrics:
        first, last = self._first_token, self._last_token
        gaps = self._completion_tokens - 1
        between = last - first if first is not None and last is not None and gaps > 0 else None
        return RequestMetrics(
            time_to_first_token_ms=None if first is None else (first - self._submitted) * 1e3,
            queue_time_ms=None if self._end is None else self._end.queued_seconds * 1e3,
            mean_itl_ms=None if between is None else between / gaps * 1e3,
            tokens_per_second=gaps / between if between else None,
            speculative_decoding=None if self._end is None else _speculation(self._end),
        )


def _speculation(end: End) -> SpeculationMetrics | None:
    steps = sum(end.accepted)
    if steps == 0:
        return None
    kept = sum(count * times for count, times in enumerate(end.accepted))
    return SpeculationMetrics(
        mean_acceptance_length=1 + kept / steps,
        draft_acceptance_rate=kept / end.num_draft_tokens,
        acceptance_histogram=end.accepted,
        num_spec_steps=steps,
        num_accepted_draft_tokens=kept,
        num_draft_tokens=end.num_draft_tokens,
        num_spec_tokens=len(end.accepted) - 1,
    )
