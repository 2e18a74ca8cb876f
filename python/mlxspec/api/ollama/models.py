"""GET /api/tags, /api/ps and /api/version, POST /api/show and /api/pull: what is served."""

import hashlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from litestar import get, post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Struct

from mlxspec.api.answer import send_json, send_stream
from mlxspec.api.body import read_json
from mlxspec.api.ollama.names import find_card
from mlxspec.api.ollama.params import ModelParams
from mlxspec.api.ollama.schema import (
    ListedModel,
    ModelDetails,
    ModelList,
    Progress,
    RunningList,
    RunningModel,
    ShownModel,
    Version,
)
from mlxspec.api.ollama.wording import FRAMING
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.engine.request import ModelCard

API_VERSION = "0.13.5"
"""The Ollama whose API this is: clients ask before they use what is new."""

NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""When a model that stays in memory leaves it."""

MODEL = msgspec.json.Decoder(ModelParams)


def models_routes(engine: EngineLike) -> list[HTTPRouteHandler]:
    """Ollama's handlers that tell of one engine's models."""

    @get("/api/tags", sync_to_thread=False, opt=described(answers=(ModelList,)))
    def tags() -> Response[bytes]:
        """All configured models, loaded or not."""
        return send_json(ModelList([_listed(card) for card in engine.models()]))

    @get("/api/ps", sync_to_thread=False, opt=described(answers=(RunningList,)))
    def running() -> Response[bytes]:
        """The models in memory."""
        cards = [card for card in engine.models() if card.state == "resident"]
        return send_json(RunningList([_running(card) for card in cards]))

    @get("/api/version", sync_to_thread=False, opt=described(answers=(Version,)))
    def version() -> Response[bytes]:
        """The version of Ollama's API."""
        return send_json(Version(API_VERSION))

    @post("/api/show", status_code=200, opt=described(body=ModelParams, answers=(ShownModel,)))
    async def show(request: Request[Any, Any, Any]) -> Response[bytes]:
        """One model: its template, its context, what it can do."""
        params = await read_json(request, MODEL)
        return send_json(_shown(find_card(engine, params.model or params.name)))

    @post(
        "/api/pull",
        status_code=200,
        opt=described(
            body=ModelParams, answers=(Progress,), events=Progress, framings=(FRAMING.media_type,)
        ),
    )
    async def pull(request: Request[Any, Any, Any]) -> Response[Any]:
        """Say that a served model is here; any other is refused with the way to get it."""
        params = await read_json(request, MODEL)
        find_card(engine, params.model or params.name)
        if params.stream is False:
            return send_json(Progress("success"))
        return send_stream(request, _pulled(), FRAMING)

    return [tags, running, version, show, pull]


async def _pulled() -> AsyncGenerator[Struct | None]:
    yield Progress("pulling manifest")
    yield Progress("success")


def _listed(card: ModelCard) -> ListedModel:
    return ListedModel(**_described(card))


def _running(card: ModelCard) -> RunningModel:
    return RunningModel(
        **_described(card),
        expires_at=_expiry(card),
        size_vram=card.memory_bytes,
        context_length=card.context_length or 0,
    )


def _expiry(card: ModelCard) -> datetime:
    left = card.expires_in
    return NEVER if left is None else datetime.now(UTC) + timedelta(seconds=min(left, 1e9))


def _described(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.id,
        "model": card.id,
        "modified_at": datetime.fromtimestamp(card.created, UTC),
        "size": card.num_bytes,
        "digest": hashlib.sha256(f"{card.id} {card.num_bytes}".encode()).hexdigest(),
        "details": _details(card),
    }


def _shown(card: ModelCard) -> ShownModel:
    return ShownModel(
        template=card.chat_template,
        details=_details(card),
        model_info={
            "general.architecture": card.model_type,
            f"{card.model_type}.context_length": card.context_length or 0,
        },
        capabilities=list(card.capabilities),
        modified_at=datetime.fromtimestamp(card.created, UTC),
    )


def _details(card: ModelCard) -> ModelDetails:
    return ModelDetails(
        family=card.model_type, families=[card.model_type], quantization_level=card.dtype
    )
