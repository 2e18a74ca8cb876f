"""GET /models, /models/{id}, /models/search, /models/sse; POST /models/load and /models/unload.

The shapes are those of llama.cpp's router, which several clients can drive.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from litestar import get, post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.response import Response, Stream
from msgspec import Struct

from mlxspec.api.admin.model_schema import ModelEvent, ShownModel, ShownModels
from mlxspec.api.answer import send_json
from mlxspec.api.body import read_json
from mlxspec.api.bounds import Name
from mlxspec.api.disconnect import unless_client_leaves
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.api.stream import SSE, stream_response
from mlxspec.engine.request import ModelCard
from mlxspec.errors import MlxspecError

log = structlog.get_logger("mlxspec.api")


class ModelParams(Struct, frozen=True, kw_only=True):
    """Which model; with `wait` the answer comes when it is done, and has the model in it."""

    model: Name
    wait: bool = False


class Done(Struct, frozen=True):
    """Answer of /models/load and /models/unload."""

    success: bool = True
    model: ShownModel | None = None


PARAMS = msgspec.json.Decoder(ModelParams)


class Errands:
    """What goes on after its answer was sent: loads and unloads that nobody waits for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[ModelCard]] = set()

    def begin(self, work: Coroutine[Any, Any, ModelCard]) -> None:
        """Do it in the background; what goes wrong is in the model's status, and in the log."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[ModelCard]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), MlxspecError):
            log.warning("a load or unload failed", error=error.message)


def models_admin_routes(engine: EngineLike, keepalive_seconds: float) -> list[HTTPRouteHandler]:
    """The handlers that show, load and unload one engine's models."""
    errands = Errands()

    @get("/models", sync_to_thread=False, opt=described(answers=(ShownModels,)))
    def list_models() -> Response[bytes]:
        """All served models, in memory or not."""
        return send_json(ShownModels([ShownModel.of(card) for card in engine.models()]))

    @get("/models/{model_id:path}", sync_to_thread=False, opt=described(answers=(ShownModel,)))
    def show_model(model_id: FromPath[str]) -> Response[bytes]:
        """One model, by id or alias; ModelNotFoundError (404) if it is not served here."""
        return send_json(ShownModel.of(engine.model(model_id.removeprefix("/"))))

    @get("/models/search", sync_to_thread=False, opt=described(answers=(ShownModels,)))
    def search(
        q: FromQuery[str] = "",
        tag: FromQuery[str] = "",
        type: FromQuery[str] = "",  # noqa: A002 - the name on the wire
    ) -> Response[bytes]:
        """The models whose id, alias or description has the text, with that tag and type."""
        found = [card for card in engine.models() if _matches(card, q.lower(), tag, type)]
        return send_json(ShownModels([ShownModel.of(card) for card in found]))

    @get("/models/sse", opt=described(events=ModelEvent, framings=(SSE.media_type,)))
    async def events() -> Stream:
        """Where every model stands now, then every change, until the client leaves."""
        return stream_response(_events(engine, keepalive_seconds), SSE)

    @post("/models/load", status_code=200, opt=described(body=ModelParams, answers=(Done,)))
    async def load(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Bring a model into memory."""
        params = await read_json(request, PARAMS)
        return await carry_out(request, params, engine.load(engine.model(params.model).id))

    @post("/models/unload", status_code=200, opt=described(body=ModelParams, answers=(Done,)))
    async def unload(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Let a model go, once the requests that run in it have ended."""
        params = await read_json(request, PARAMS)
        engine.check_unload(params.model)
        return await carry_out(request, params, engine.unload(params.model))

    async def carry_out(
        request: Request[Any, Any, Any], params: ModelParams, work: Coroutine[Any, Any, ModelCard]
    ) -> Response[bytes]:
        if params.wait:
            card = await unless_client_leaves(work, request.receive)
            return send_json(Done(model=ShownModel.of(card)))
        errands.begin(work)
        return send_json(Done())

    return [list_models, show_model, search, events, load, unload]


def _matches(card: ModelCard, text: str, tag: str, kind: str) -> bool:
    texts = (card.id, *card.aliases, card.description)
    has_text = any(text in it.lower() for it in texts)
    return has_text and (not tag or tag in card.tags) and (not kind or kind == card.model_type)


async def _events(engine: EngineLike, keepalive_seconds: float) -> AsyncIterator[bytes]:
    async with aclosing(engine.model_events()) as changes:
        pending = asyncio.ensure_future(anext(changes))
        try:
            for card in engine.models():
                yield SSE.frame(ModelEvent.of(card))
            while True:
                done, _ = await asyncio.wait({pending}, timeout=keepalive_seconds)
                if not done:
                    yield SSE.keepalive
                    continue
                yield SSE.frame(ModelEvent.of(pending.result()))
                pending = asyncio.ensure_future(anext(changes))
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
