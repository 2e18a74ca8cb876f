"""What chats and text completions share: open generations, then answer whole or in frames."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from litestar.connection import Request
from litestar.response import Response, Stream
from msgspec import UNSET, Struct

from mlxspec.api.disconnect import unless_client_leaves
from mlxspec.api.errors import ErrorBody, internal_error
from mlxspec.api.exchange import Exchange
from mlxspec.api.openai.no_tokens import NoTokens
from mlxspec.api.openai.params import CommonParams
from mlxspec.api.openai.schema import TokenUsage
from mlxspec.api.openai.wording import Completed, Metrics, Wording
from mlxspec.api.ports import EngineLike, GenerationLike
from mlxspec.api.stream import (
    Framing,
    check_end,
    choose_framing,
    encode,
    lost_request,
    merge,
    stream_response,
)
from mlxspec.engine.request import GenerationRequest
from mlxspec.errors import MlxspecError


class Answerer:
    """Runs generations on an engine and answers with them. For the event loop's thread."""

    def __init__(self, engine: EngineLike, keepalive_seconds: float) -> None:
        self._engine = engine
        self._keepalive_seconds = keepalive_seconds

    async def answer(
        self,
        request: Request[Any, Any, Any],
        params: CommonParams,
        wanted: Sequence[GenerationRequest],
        wording: Wording,
    ) -> Response[bytes] | Stream:
        """One choice per wanted generation; raises what `submit` raises before a byte is sent."""
        exchange = Exchange.of(request)
        exchange.facts.update(model=params.model, stream=bool(params.stream))
        generations = [await self._open(exchange, generation) for generation in wanted]
        if not params.stream:
            work = _whole(generations, wording)
            body = await unless_client_leaves(work, request.receive)
            return Response(content=body, media_type="application/json")
        framing = choose_framing(request.headers.get("accept", ""), params.stream_format)
        with_usage = bool(params.stream_options and params.stream_options.include_usage)
        chunks = self._chunks(generations, wording, with_usage)
        return stream_response(_frames(chunks, framing, exchange), framing)

    async def _open(self, exchange: Exchange, wanted: GenerationRequest) -> GenerationLike:
        generation: GenerationLike
        if wanted.max_tokens == 0:
            one_token = msgspec.structs.replace(wanted, max_tokens=1)
            generation = NoTokens(await self._engine.submit(one_token))
        else:
            generation = await self._engine.submit(wanted)
        exchange.hold(generation)
        return generation

    async def _chunks(
        self, generations: Sequence[GenerationLike], wording: Wording, with_usage: bool
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
                if delta.text:
                    yield wording.text(index, delta.text)
                if delta.finish_reason:
                    metrics = UNSET if with_usage else _the_metrics(generations)
                    yield wording.finish(index, delta.finish_reason, metrics)
        if with_usage:
            yield wording.usage(_the_usage(generations), _the_metrics(generations))


async def _frames(
    chunks: AsyncGenerator[Struct | None], framing: Framing, exchange: Exchange
) -> AsyncIterator[bytes]:
    """The chunks' bytes; an error becomes the last frame, since the status is long sent."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                if chunk is not None:
                    yield framing.frame(chunk)
                elif framing.keepalive:
                    yield framing.keepalive
        if framing.end:
            yield framing.end
    except MlxspecError as error:
        exchange.facts["error"] = error.code
        yield framing.frame(ErrorBody.of(error))
    except Exception as error:  # noqa: BLE001 - it is logged, with its traceback
        yield framing.frame(ErrorBody.of(internal_error(exchange.id, error)))
    finally:
        exchange.release()


async def _whole(generations: Sequence[GenerationLike], wording: Wording) -> bytes:
    """The encoded answer, when all generations have ended."""
    choices = await asyncio.gather(*(_complete(generation) for generation in generations))
    return encode(wording.whole(choices, _the_usage(generations), _the_metrics(generations)))


async def _complete(generation: GenerationLike) -> Completed:
    texts = []
    async for delta in generation:
        texts.append(check_end(delta).text)
        if delta.finish_reason:
            return Completed("".join(texts), delta.finish_reason)
    raise lost_request()


def _the_usage(generations: Sequence[GenerationLike]) -> TokenUsage:
    return TokenUsage.total([generation.usage for generation in generations])


def _the_metrics(generations: Sequence[GenerationLike]) -> Metrics:
    return generations[0].metrics if len(generations) == 1 else None
