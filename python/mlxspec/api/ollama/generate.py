"""POST /api/generate and /api/chat."""

from collections.abc import Callable
from typing import Any

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from mlxspec.api.answer import open_generation, send_json, send_stream, send_whole
from mlxspec.api.body import read_json
from mlxspec.api.disconnect import unless_client_leaves
from mlxspec.api.exchange import Exchange
from mlxspec.api.ollama.convert import chat_request, generate_request
from mlxspec.api.ollama.keep_alive import keep_alive_seconds
from mlxspec.api.ollama.lines import chat_line, generate_line
from mlxspec.api.ollama.names import find_card
from mlxspec.api.ollama.params import ChatParams, CommonParams, GenerateParams
from mlxspec.api.ollama.refusals import refuse_unable, refuse_unsupported
from mlxspec.api.ollama.schema import ChatLine, GenerateLine, Line
from mlxspec.api.ollama.wording import FRAMING, Wording
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.engine.request import GenerationRequest

GENERATE = msgspec.json.Decoder(GenerateParams)
CHAT = msgspec.json.Decoder(ChatParams)


def generate_routes(engine: EngineLike, keepalive_seconds: float) -> list[HTTPRouteHandler]:
    """Ollama's generating handlers of one engine."""

    async def answer(
        request: Request[Any, Any, Any],
        params: CommonParams,
        wanted: GenerationRequest | None,
        line: Callable[..., Line],
    ) -> Response[Any]:
        """Lines, unless the client wants them as one; without a prompt, load or unload."""
        exchange = Exchange.of(request)
        exchange.facts.update(model=params.model, stream=params.stream is not False)
        card = find_card(engine, params.model)
        refuse_unable(card, params)
        if wanted is None:
            return await fetch(request, params, card.id, line)
        wanted = msgspec.structs.replace(wanted, model=card.id)
        generation = await open_generation(engine, request, wanted)
        wording = Wording(line, params.model, exchange)
        if params.stream is False:
            return await send_whole(request, wording.whole(generation))
        return send_stream(request, wording.lines(generation, keepalive_seconds), FRAMING)

    async def fetch(
        request: Request[Any, Any, Any],
        params: CommonParams,
        name: str,
        line: Callable[..., Line],
    ) -> Response[Any]:
        """Bring the model into memory, or let it go where it is to be kept for no time."""
        wording = Wording(line, params.model, Exchange.of(request))
        seconds = keep_alive_seconds(params.keep_alive)
        if seconds == 0:
            await unless_client_leaves(engine.unload(name), request.receive)
            return send_json(wording.without_prompt("unload"))
        await unless_client_leaves(engine.load(name, seconds), request.receive)
        return send_json(wording.without_prompt("load"))

    @post(
        "/api/generate",
        status_code=200,
        opt=described(
            body=GenerateParams,
            answers=(GenerateLine,),
            events=GenerateLine,
            framings=(FRAMING.media_type,),
        ),
    )
    async def generate(request: Request[Any, Any, Any]) -> Response[Any]:
        """Continue one prompt."""
        params = await read_json(request, GENERATE)
        refuse_unsupported(params)
        wanted = generate_request(params) if params.prompt else None
        return await answer(request, params, wanted, generate_line)

    @post(
        "/api/chat",
        status_code=200,
        opt=described(
            body=ChatParams, answers=(ChatLine,), events=ChatLine, framings=(FRAMING.media_type,)
        ),
    )
    async def chat(request: Request[Any, Any, Any]) -> Response[Any]:
        """Continue a conversation."""
        params = await read_json(request, CHAT)
        refuse_unsupported(params)
        wanted = chat_request(params) if params.messages else None
        return await answer(request, params, wanted, chat_line)

    return [generate, chat]
