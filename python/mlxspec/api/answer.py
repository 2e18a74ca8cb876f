"""What the answers of all dialects share: generations opened, then a whole body or frames."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec
from litestar.connection import Request
from litestar.response import Response, Stream
from msgspec import Struct

from mlxspec.api.disconnect import unless_client_leaves
from mlxspec.api.errors import internal_error
from mlxspec.api.exchange import Exchange
from mlxspec.api.no_tokens import NoTokens
from mlxspec.api.ports import EngineLike, GenerationLike
from mlxspec.api.stream import Framing, check_end, encode, lost_request, merge, stream_response
from mlxspec.engine.request import (
    Delta,
    FinishReason,
    GenerationRequest,
    PromptToken,
    TokenLogprobs,
    ToolCall,
)
from mlxspec.errors import BadRequestError, MlxspecError

TIMEOUT_HEADER = "x-request-timeout-ms"


class Completed(Struct, frozen=True):
    """A whole reply and why it ended."""

    text: str
    finish_reason: FinishReason
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    stop: str | None = None
    """The stop string that ended it, if one did."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of its tokens, if the request asked for them."""
    prompt: tuple[PromptToken, ...] = ()
    """The prompt's own, if the request asked for their logprobs."""


async def open_generation(
    engine: EngineLike, request: Request[Any, Any, Any], wanted: GenerationRequest
) -> GenerationLike:
    """Queue a request that ends with its exchange; raises what `submit` raises."""
    [generation] = await open_generations(engine, request, wanted, 1)
    return generation


async def open_generations(
    engine: EngineLike, request: Request[Any, Any, Any], wanted: GenerationRequest, copies: int
) -> list[GenerationLike]:
    """Queue copies with seeds of their own, all of which end with the exchange, or none.

    A model may have to be loaded first, which a client that leaves no longer waits for.
    """
    wanted = msgspec.structs.replace(wanted, cache_salt=_salt(request, wanted))
    if seconds := wanted_seconds(request):
        wanted = msgspec.structs.replace(wanted, timeout_seconds=seconds)
    opening = _open(engine, Exchange.of(request), wanted, copies)
    return await unless_client_leaves(opening, request.receive)


async def _open(
    engine: EngineLike, exchange: Exchange, wanted: GenerationRequest, copies: int
) -> list[GenerationLike]:
    """Nothing is awaited between the engine's answer and the exchange's hold on it."""
    generations = await accept(engine, wanted, copies)
    for generation in generations:
        exchange.hold(generation)
    return generations


async def accept(
    engine: EngineLike, wanted: GenerationRequest, copies: int
) -> list[GenerationLike]:
    """Queue copies, which the caller must close. Where nothing is asked for, nothing runs."""
    if wanted.max_tokens == 0 and wanted.prompt_logprobs is None:
        one_token = msgspec.structs.replace(wanted, max_tokens=1)
        return [NoTokens(one) for one in await engine.submit_copies(one_token, copies)]
    return list(await engine.submit_copies(wanted, copies))


async def deltas(generation: GenerationLike, idle_seconds: float) -> AsyncGenerator[Delta | None]:
    """One generation's deltas, and None after each idle interval; raises `check_end`'s errors."""
    async with aclosing(merge([generation], idle_seconds)) as indexed:
        async for news in indexed:
            yield None if news is None else news[1]


def _salt(request: Request[Any, Any, Any], wanted: GenerationRequest) -> str:
    """The client's own salt within that of its API key: holders of different keys share nothing."""
    caller = Exchange.of(request).caller
    return wanted.cache_salt if caller is None else f"{caller.id}/{wanted.cache_salt}"


def wanted_seconds(request: Request[Any, Any, Any]) -> float | None:
    """The client's own limit on its request; BadRequestError when the header is no number."""
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    if not re.fullmatch("[1-9][0-9]{0,8}", text, re.ASCII):
        raise BadRequestError(f"{TIMEOUT_HEADER} {text!r:.20} is not a time: send milliseconds")
    return int(text) / 1000


async def complete(generation: GenerationLike) -> Completed:
    """The generation's reply once it has ended; raises `check_end`'s errors."""
    deltas = [check_end(delta) async for delta in generation]
    if not deltas or deltas[-1].finish_reason is None:
        raise lost_request()
    return Completed(
        text="".join(delta.text for delta in deltas),
        finish_reason=deltas[-1].finish_reason,
        reasoning="".join(delta.reasoning for delta in deltas),
        calls=tuple(delta.call for delta in deltas if delta.call),
        stop=deltas[-1].stop,
        logprobs=tuple(token for delta in deltas for token in delta.logprobs),
        prompt=tuple(generation.prompt_tokens),
    )


def send_json(answer: Struct) -> Response[bytes]:
    """The answer as one JSON body."""
    return Response(content=encode(answer), media_type="application/json")


async def send_whole(
    request: Request[Any, Any, Any], answer: Coroutine[Any, Any, Struct]
) -> Response[bytes]:
    """The answer once it is there; a client that leaves ends the work for it."""
    return send_json(await unless_client_leaves(answer, request.receive))


def send_stream(
    request: Request[Any, Any, Any], chunks: AsyncGenerator[Struct | None], framing: Framing
) -> Stream:
    """The chunks as frames; None stands for a sign of life while no token comes."""
    return stream_response(_frames(chunks, framing, Exchange.of(request)), framing)


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
        yield framing.error(error)
    except Exception as error:  # noqa: BLE001 - it is logged, with its traceback
        yield framing.error(internal_error(exchange.id, error))
    finally:
        exchange.release()
