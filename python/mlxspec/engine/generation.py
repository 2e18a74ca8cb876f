"""One running request as its client sees it: a stream of deltas, then usage and metrics."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, NamedTuple

from mlxspec.engine.deadlines import Deadlines
from mlxspec.engine.logprobs import RawLogprobs
from mlxspec.engine.output import Output
from mlxspec.engine.prompt_report import PromptReport
from mlxspec.engine.reply import Part
from mlxspec.engine.request import (
    Delta,
    FinishReason,
    PromptToken,
    RequestMetrics,
    SpeculationMetrics,
    Usage,
)
from mlxspec.errors import (
    BadRequestError,
    ContextLengthError,
    EngineError,
    MlxspecError,
    QueueTimeoutError,
    UnavailableError,
)

Refused = Literal["loaded", "expired", "context_length", "too_large", "unavailable"]
"""Ends of a request that never ran."""

LOADING_RETRY_SECONDS = 5


class End(NamedTuple):
    """How a request ended, as the scheduler tells it."""

    reason: FinishReason | Refused
    message: str
    queued_seconds: float
    preemptions: int
    cached_tokens: int
    num_draft_tokens: int
    accepted: list[int]
    predicted: tuple[int, int]
    """Draft tokens of the client's prediction: verified, and kept."""


class Generation:
    """Event loop only. Iterate for deltas; `close` at any time frees the request's memory.

    on_end: called once, when the scheduler tells of the end; why the grammar was given up, if so.
    report: what is told of the prompt, if anything.
    """

    def __init__(
        self,
        *,
        num_prompt_tokens: int,
        output: Output,
        abort: Callable[[], None],
        on_end: Callable[[], str],
        deadlines: Callable[[Callable[[MlxspecError], None]], Deadlines],
        report: PromptReport | None = None,
    ) -> None:
        """`deadlines` makes the request's timers; they call what they are given when time is up."""
        self._output = output
        self._on_end = on_end
        self._report = report
        self._gave_up = ""
        self._abort = abort
        self._tokens: deque[int] = deque()
        self._end: End | None = None
        self._news = asyncio.Event()
        self._closed = False
        self._failure: MlxspecError | None = None
        self._deadlines = deadlines(self._fail)
        self._prompt_tokens = num_prompt_tokens
        self._told_tokens = 0
        self._submitted = time.monotonic()
        self._first_token: float | None = None
        self._last_token: float | None = None

    def deliver(self, tokens: list[int], logprobs: Sequence[RawLogprobs], end: End | None) -> None:
        """Take news from the scheduler; `logprobs` are of all tokens, or of none."""
        self._output.logprobs.extend(logprobs)
        if tokens:
            self._last_token = time.monotonic()
            self._first_token = self._first_token or self._last_token
            self._tokens.extend(tokens)
            self._deadlines.first_token()
        if end is not None:
            self._end = end
            self._gave_up = self._on_end()
            self._deadlines.ended()
        self._news.set()

    def close(self) -> None:
        """End the request if it still runs. Idempotent, safe at any time."""
        if not self._closed and self._end is None:
            self._abort()
        self._closed = True
        self._deadlines.ended()

    def _fail(self, error: MlxspecError) -> None:
        """End the request now, whether or not the scheduler answers: it may hang."""
        if self._end is None and not self._closed:
            self._failure = error
            self.close()
            self._news.set()

    async def begun(self) -> None:
        """Wait until the request has its first token or its end; raises if it was refused."""
        try:
            while self._end is None and self._failure is None and not self._tokens:
                self._news.clear()
                await self._news.wait()
        except BaseException:
            self.close()
            raise
        if self._failure is not None:
            raise self._failure
        if self._end is not None:
            self._finish_reason(self._end)

    def _finish_reason(self, end: End) -> FinishReason:
        return finish_reason(end, age_seconds=self.age_seconds, param="prompt")

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """Deltas until the one with a finish reason; raises EngineError if the step failed."""
        while True:
            finish = self._read_tokens()
            if finish and self._end is None:
                # We end it: the scheduler's own end, with what it measured, is a step away.
                await self._until_ended()
            for delta in self._deltas(finish):
                yield delta
            if finish:
                return
            if not self._tokens and self._end is None and self._failure is None:
                self._news.clear()
                await self._news.wait()

    async def _until_ended(self) -> None:
        while self._end is None and self._failure is None:
            self._news.clear()
            await self._news.wait()

    def _read_tokens(self) -> FinishReason | None:
        """Move what has come into the output; returns why it ends there, if it does."""
        if self._failure:
            raise self._failure
        while self._tokens:
            if self._output.push(self._tokens.popleft()):
                self._tokens.clear()
                self.close()
                return self._finished("stop")
        if self._end is None:
            return None
        if self._gave_up:
            raise BadRequestError(f"the grammar was given up, {self._gave_up}: send a simpler one")
        if self._report is not None and self._report.scores.refusal:
            raise BadRequestError(
                f"the model cannot tell of its prompt, {self._report.scores.refusal}: leave out "
                "prompt_logprobs, or logprobs with echo",
                param="prompt_logprobs",
            )
        return self._finished(self._finish_reason(self._end))

    def _finished(self, reason: FinishReason) -> FinishReason:
        self._output.finish()
        return "tool_calls" if reason == "stop" and self._output.has_calls else reason

    def _deltas(self, finish: FinishReason | None) -> list[Delta]:
        """The output's new parts; the last one counts the tokens and tells the end."""
        logprobs = self._output.logprobs.take()
        parts = self._output.take() or ([Part()] if finish or logprobs else [])
        if not parts:
            return []
        start, self._told_tokens = self._told_tokens, self._output.num_tokens
        last = Delta(
            **parts[-1]._asdict(),
            num_tokens=self._told_tokens - start,
            logprobs=logprobs,
            finish_reason=finish,
            stop=self._output.stop,
        )
        return [*(Delta(**part._asdict()) for part in parts[:-1]), last]

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._submitted

    @property
    def usage(self) -> Usage:
        verified, kept = (0, 0) if self._end is None else self._end.predicted
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._output.num_tokens,
            reasoning_tokens=self._output.num_reasoning_tokens,
            accepted_prediction_tokens=kept,
            rejected_prediction_tokens=verified - kept,
            cached_tokens=0 if self._end is None else self._end.cached_tokens,
        )

    @property
    def prompt_tokens(self) -> tuple[PromptToken, ...]:
        return () if self._report is None else self._report.tokens()

    @property
    def metrics(self) -> RequestMetrics:
        first, last = self._first_token, self._last_token
        gaps = self._output.num_tokens - 1
        between = last - first if first is not None and last is not None and gaps > 0 else None
        return RequestMetrics(
            time_to_first_token_ms=None if first is None else (first - self._submitted) * 1e3,
            queue_time_ms=None if self._end is None else self._end.queued_seconds * 1e3,
            mean_itl_ms=None if between is None else between / gaps * 1e3,
            tokens_per_second=gaps / between if between else None,
            speculative_decoding=None if self._end is None else _speculation(self._end),
        )


def finish_reason(end: End, *, age_seconds: float, param: str) -> FinishReason:
    """Why a request ended, if it ran; else the error that tells its client why it did not.

    param: the request field that the prompt came from.
    """
    match end.reason:
        case "stop" | "length" | "abort":
            return end.reason
        case "expired":
            raise QueueTimeoutError(
                f"the request waited {age_seconds:.0f} s in the queue: try again later"
            )
        case "context_length":
            raise ContextLengthError(end.message, param=param)
        case "too_large":
            raise BadRequestError(end.message, param="max_tokens")
        case "unavailable":
            raise UnavailableError(end.message, retry_after=LOADING_RETRY_SECONDS)
        case _:
            raise EngineError(
                "the request could not be finished: send it again; the server's log has the cause"
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
