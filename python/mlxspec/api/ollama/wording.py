"""How an answer is told in Ollama's words: whole, or line by line."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Literal

from mlxspec.api.answer import complete, deltas
from mlxspec.api.exchange import Exchange
from mlxspec.api.ollama.error import FORM
from mlxspec.api.ollama.lines import Said
from mlxspec.api.ollama.schema import Line
from mlxspec.api.ports import GenerationLike
from mlxspec.api.stream import NDJSON
from mlxspec.engine.request import FinishReason

FRAMING = NDJSON._replace(errors=FORM)


class Wording:
    """Words the answer to one request, made once it is queued."""

    def __init__(self, line: Callable[..., Line], model: str, exchange: Exchange) -> None:
        self._line = line
        self._model = model
        self._exchange = exchange

    async def whole(self, generation: GenerationLike) -> Line:
        """The answer that is not streamed; raises what a generation raises."""
        completed = await complete(generation)
        said = Said(completed.text, completed.reasoning, completed.calls)
        return self._last(said, completed.finish_reason, generation)

    async def lines(
        self, generation: GenerationLike, idle_seconds: float
    ) -> AsyncGenerator[Line | None]:
        """The answer's lines in order; None where the client should hear that we live."""
        async with aclosing(deltas(generation, idle_seconds)) as news:
            async for delta in news:
                if delta is None:
                    yield None
                    continue
                said = Said(delta.text, delta.reasoning, (delta.call,) if delta.call else ())
                if delta.finish_reason:
                    yield self._last(said, delta.finish_reason, generation)
                else:
                    yield self._line(said, model=self._model, created_at=_now(), done=False)

    def without_prompt(self, reason: Literal["load", "unload"]) -> Line:
        """The answer to a request without a prompt: the model has come, or gone."""
        return self._line(
            Said(), model=self._model, created_at=_now(), done=True, done_reason=reason
        )

    def _last(self, said: Said, reason: FinishReason, generation: GenerationLike) -> Line:
        usage, metrics = generation.usage, generation.metrics
        elapsed_seconds = self._exchange.elapsed_seconds
        queue_ms = metrics.queue_time_ms or 0.0
        before_ms = max(0.0, elapsed_seconds - generation.age_seconds) * 1e3
        gaps = max(0, usage.completion_tokens - 1)
        return self._line(
            said,
            model=self._model,
            created_at=_now(),
            done=True,
            done_reason="length" if reason == "length" else "stop",
            total_duration=_ns(elapsed_seconds * 1e3),
            load_duration=_ns(before_ms + queue_ms),
            prompt_eval_count=usage.prompt_tokens,
            prompt_eval_duration=_ns((metrics.time_to_first_token_ms or 0.0) - queue_ms),
            eval_count=usage.completion_tokens,
            eval_duration=_ns((metrics.mean_itl_ms or 0.0) * gaps),
            metrics=metrics,
        )


def _now() -> datetime:
    return datetime.now(UTC)


def _ns(milliseconds: float) -> int:
    return max(0, round(milliseconds * 1e6))
