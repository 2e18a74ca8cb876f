"""llama.cpp's account of a request's times, which several user interfaces show."""

from typing import Self

from msgspec import Struct

from mlxspec.engine.request import RequestMetrics, Usage


class Timings(Struct, frozen=True, kw_only=True):
    """Tokens and measured milliseconds; a rate is null where there was no time to measure.

    cache_n: prompt tokens whose KV was reused. prompt_n: the others, which were computed.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float | None
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None
    draft_n: int
    draft_n_accepted: int

    @classmethod
    def of(cls, usage: Usage, metrics: RequestMetrics) -> Self:
        """The account of one ended generation. The first token belongs to the prompt's time."""
        prompt_ms = (metrics.time_to_first_token_ms or 0.0) - (metrics.queue_time_ms or 0.0)
        computed = usage.prompt_tokens - usage.cached_tokens
        gaps = max(0, usage.completion_tokens - 1)
        predicted_ms = (metrics.mean_itl_ms or 0.0) * gaps
        speculation = metrics.speculative_decoding
        return cls(
            cache_n=usage.cached_tokens,
            prompt_n=computed,
            prompt_ms=prompt_ms,
            prompt_per_second=computed / prompt_ms * 1e3 if prompt_ms > 0 else None,
            predicted_n=usage.completion_tokens,
            predicted_ms=predicted_ms,
            predicted_per_second=metrics.tokens_per_second,
            draft_n=speculation.num_draft_tokens if speculation else 0,
            draft_n_accepted=speculation.num_accepted_draft_tokens if speculation else 0,
        )
