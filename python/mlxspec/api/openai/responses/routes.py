"""/v1/responses: create, count, and come back to what is stored."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from litestar import delete, get, post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Response
from msgspec import Struct

from mlxspec.api.answer import open_generation, send_json, send_stream, send_whole
from mlxspec.api.body import read_json
from mlxspec.api.default_model import model_or_only
from mlxspec.api.exchange import Exchange
from mlxspec.api.openai.refusals import refuse_unsupported
from mlxspec.api.openai.responses import events, refusals, schema
from mlxspec.api.openai.responses.convert import (
    chat_options,
    generation_request,
    input_messages,
    with_instructions,
)
from mlxspec.api.openai.responses.params import PromptParams, ResponseParams
from mlxspec.api.openai.responses.schema import Deleted, InputTokens
from mlxspec.api.openai.responses.store import ResponseStore
from mlxspec.api.openai.responses.wording import ResponseWording
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike, GenerationLike
from mlxspec.api.stream import SSE, encode
from mlxspec.engine.request import Message
from mlxspec.errors import BadRequestError

RESPONSE = msgspec.json.Decoder(ResponseParams)
COUNT = msgspec.json.Decoder(PromptParams)


def responses_routes(
    engine: EngineLike, store: ResponseStore, keepalive_seconds: float
) -> list[HTTPRouteHandler]:
    """The handlers of one engine and one store."""

    @post(
        "/v1/responses",
        status_code=200,
        opt=described(
            body=ResponseParams,
            answers=(schema.Response,),
            events=events.Event,
            framings=(SSE.media_type,),
        ),
    )
    async def create_response(request: Request[Any, Any, Any]) -> Response[Any]:
        """Continue a conversation of items: whole, or as a stream of events."""
        params = await read_json(request, RESPONSE)
        refuse_unsupported(params, refusals.RESPONSE)
        model = model_or_only(engine, params.model)
        exchange = Exchange.of(request)
        exchange.facts.update(model=model, stream=bool(params.stream))
        messages = _conversation(params, store, _owner(request))
        wanted = generation_request(params, model, messages)
        generation = await open_generation(engine, request, wanted)
        wording = ResponseWording(f"resp_{exchange.id}", model, params)
        keeper = _Keeper(store, _owner(request), messages)
        if params.stream:
            frames = keeper.stream(wording, generation, keepalive_seconds)
            return send_stream(request, frames, wording.framing)
        return await send_whole(request, keeper.whole(wording, generation, keepalive_seconds))

    @post(
        "/v1/responses/input_tokens",
        status_code=200,
        opt=described(body=PromptParams, answers=(InputTokens,)),
    )
    async def count_input_tokens(request: Request[Any, Any, Any]) -> Response[bytes]:
        """How many tokens a response's prompt would have; nothing is generated."""
        params = await read_json(request, COUNT)
        refuse_unsupported(params, refusals.PROMPT)
        messages = with_instructions(params, _conversation(params, store, _owner(request)))
        model = model_or_only(engine, params.model)
        tokens = await engine.tokenize(model, messages, chat_options(params))
        return send_json(InputTokens(input_tokens=len(tokens)))

    @get("/v1/responses/{response_id:str}", opt=described(answers=(schema.Response,)))
    async def show_response(
        request: Request[Any, Any, Any], response_id: FromPath[str]
    ) -> Response[bytes]:
        """A stored response."""
        body = store.get(_owner(request), response_id).body
        return Response(content=body, media_type="application/json")

    @delete("/v1/responses/{response_id:str}", status_code=200, opt=described(answers=(Deleted,)))
    async def delete_response(
        request: Request[Any, Any, Any], response_id: FromPath[str]
    ) -> Response[bytes]:
        """Forget a stored response."""
        store.delete(_owner(request), response_id)
        return send_json(Deleted(id=response_id))

    @post(
        "/v1/responses/{response_id:str}/cancel",
        status_code=200,
        opt=described(answers=(schema.Response,)),
    )
    async def cancel_response(
        request: Request[Any, Any, Any], response_id: FromPath[str]
    ) -> Response[bytes]:
        """Only background responses could be cancelled, and there are none."""
        store.get(_owner(request), response_id)
        raise BadRequestError(
            "only background responses can be cancelled: close the connection of one that runs"
        )

    return [create_response, count_input_tokens, show_response, delete_response, cancel_response]


class _Keeper:
    """Stores a response when it is whole, if its client wishes so."""

    def __init__(self, store: ResponseStore, owner: str, messages: list[Message]) -> None:
        self._store = store
        self._owner = owner
        self._messages = messages

    async def whole(
        self, wording: ResponseWording, generation: GenerationLike, idle_seconds: float
    ) -> Struct:
        """The finished response."""
        response = await wording.whole(generation, idle_seconds)
        self._keep(wording)
        return response

    async def stream(
        self, wording: ResponseWording, generation: GenerationLike, idle_seconds: float
    ) -> AsyncGenerator[Struct | None]:
        """The response's events."""
        async with aclosing(wording.events(generation, idle_seconds)) as events:
            async for event in events:
                yield event
        self._keep(wording)

    def _keep(self, wording: ResponseWording) -> None:
        response = wording.response
        if response.store:
            messages = [*self._messages, *wording.reply()]
            self._store.put(self._owner, response.id, encode(response), messages)


def _conversation(params: PromptParams, store: ResponseStore, owner: str) -> list[Message]:
    """What was said before, and what is said now."""
    before: list[Message] = []
    if params.previous_response_id is not None:
        before = store.get(owner, params.previous_response_id).messages()
    return before + input_messages(params.input)


def _owner(request: Request[Any, Any, Any]) -> str:
    caller = Exchange.of(request).caller
    return "" if caller is None else caller.id
