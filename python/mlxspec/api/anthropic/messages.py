"""POST /v1/messages and /v1/messages/count_tokens."""

from typing import Any

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from mlxspec.api.answer import open_generation, send_json, send_stream, send_whole
from mlxspec.api.anthropic.convert import chat_options, messages_request, prompt_messages
from mlxspec.api.anthropic.params import CountParams, MessagesParams
from mlxspec.api.anthropic.schema import Answer, Event, TokenCount
from mlxspec.api.anthropic.wording import FRAMING, MessageWording
from mlxspec.api.body import read_json
from mlxspec.api.exchange import Exchange
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike

MESSAGES = msgspec.json.Decoder(MessagesParams)
COUNT = msgspec.json.Decoder(CountParams)


def messages_routes(engine: EngineLike, keepalive_seconds: float) -> list[HTTPRouteHandler]:
    """Anthropic's handlers of one engine."""

    @post(
        "/v1/messages",
        status_code=200,
        opt=described(
            body=MessagesParams, answers=(Answer,), events=Event, framings=(FRAMING.media_type,)
        ),
    )
    async def create_message(request: Request[Any, Any, Any]) -> Response[Any]:
        """Continue a conversation: whole, or as a stream of events."""
        params = await read_json(request, MESSAGES)
        exchange = Exchange.of(request)
        exchange.facts.update(model=params.model, stream=bool(params.stream))
        generation = await open_generation(engine, request, messages_request(params))
        wording = MessageWording(f"msg_{exchange.id}", params.model)
        if not params.stream:
            return await send_whole(request, wording.whole(generation))
        return send_stream(request, wording.events(generation, keepalive_seconds), FRAMING)

    @post(
        "/v1/messages/count_tokens",
        status_code=200,
        opt=described(body=CountParams, answers=(TokenCount,)),
    )
    async def count_tokens(request: Request[Any, Any, Any]) -> Response[bytes]:
        """How many tokens a conversation's prompt has; nothing is generated."""
        params = await read_json(request, COUNT)
        tokens = await engine.tokenize(params.model, prompt_messages(params), chat_options(params))
        return send_json(TokenCount(len(tokens)))

    return [create_message, count_tokens]
