"""What chats and text completions share: open generations, then answer whole or in frames."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from math import inf
from statistics import fmean
from typing import Any, NamedTuple

from litestar.connection import Request
from litestar.response import Response, Stream
from msgspec import Struct

from mlxspec.api.answer import Completed, complete, open_generations, send_stream, send_whole
from mlxspec.api.exchange import Exchange
from mlxspec.api.openai.params import CommonParams
from mlxspec.api.openai.schema import TokenUsage
from mlxspec.api.openai.wording import UNMEASURED, Measured, Wording
from mlxspec.api.ports import EngineLike, GenerationLike
from mlxspec.api.stream import choose_framing, merge
from mlxspec.engine.request import GenerationRequest


class Wanted(NamedTuple):
    """What is to be generated: `copies` of each request with seeds of their own, and how many of
    them, the likeliest ones if not all, become choices."""

    requests: Sequence[GenerationRequest]
    copies: int
    kept: int


class Answerer:
    """Runs generations on an engine and answers with them. For the event loop's thread."""

    def __init__(self, engine: EngineLike, keepalive_seconds: float) -> None:
        self._engine = engine
        self._keepalive_seconds = keepalive_seconds

    async def answer(
        self,
        request: Request[Any, Any, Any],
        params: CommonParams,
        wanted: Wanted,
        wording: Wording,
    ) -> Response[bytes] | Stream:
        """One choice per kept generation; raises what `submit` raises before a byte is sent."""
        Exchange.of(request).facts.update(model=params.model, stream=bool(params.stream))
        generations: list[GenerationLike] = []
        for one in wanted.requests:
            generations += await open_generations(self._engine, request, one, wanted.copies)
        if not params.stream:
            return await send_whole(request, whole_answer(generations, wanted, wording))
        framing = choose_framing(request.headers.get("accept", ""), params.stream_format)
        with_usage = bool(params.stream_options and params.stream_options.include_usage)
        return send_stream(request, self._chunks(generations, wanted, wording, with_usage), framing)

    async def _chunks(
        self,
        generations: Sequence[GenerationLike],
        wanted: Wanted,
        wording: Wording,
        with_usage: bool,
    ) -> AsyncGenerator[Struct | None]:
        """The stream's chunks in order; None where the client should hear that we live."""
        for index in range(len(generations)):
            if opening := wording.opening(index):
                yield opening
        async with aclosing(merge(generations, self._keepalive_seconds)) as deltas:
            async for indexed in deltas:
                if indexed is None:
                    yield None
                    continue
                index, delta = indexed
                for chunk in wording.news(index, delta):
                    yield chunk
                if delta.finish_reason:
                    measured = UNMEASURED if with_usage else Measured.of(generations)
                    yield wording.finish(index, delta.finish_reason, measured)
        if with_usage:
            yield wording.usage(_the_usage(generations, wanted), Measured.of(generations))


async def whole_answer(
    generations: Sequence[GenerationLike], wanted: Wanted, wording: Wording
) -> Struct:
    """The answer, when all generations have ended."""
    texts = await asyncio.gather(*(complete(generation) for generation in generations))
    choices = _kept(texts, wanted)
    return wording.whole(choices, _the_usage(generations, wanted), Measured.of(generations))


def _kept(texts: Sequence[Completed], wanted: Wanted) -> list[Completed]:
    """Of each request's copies those with the highest mean logprob, likeliest first."""
    if wanted.kept == wanted.copies:
        return list(texts)
    starts = range(0, len(texts), wanted.copies)
    groups = [texts[start : start + wanted.copies] for start in starts]
    return [
        text
        for group in groups
        for text in sorted(group, key=_mean_logprob, reverse=True)[: wanted.kept]
    ]


def _mean_logprob(text: Completed) -> float:
    return fmean([token.chosen.logprob for token in text.logprobs] or [-inf])


def _the_usage(generations: Sequence[GenerationLike], wanted: Wanted) -> TokenUsage:
    return TokenUsage.total([generation.usage for generation in generations], wanted.copies)
