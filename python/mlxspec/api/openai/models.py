"""GET /v1/models and /v1/models/{id}; ids may contain slashes."""

from typing import Any

from litestar import get
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Response

import mlxspec.api.anthropic.models as anthropic
from mlxspec.api.answer import send_json
from mlxspec.api.anthropic.error import VERSION
from mlxspec.api.openai.schema import Model, ModelList
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.engine.request import ModelCard


def models_routes(engine: EngineLike) -> list[HTTPRouteHandler]:
    """The handlers that show one engine's models."""

    @get(
        "/v1/models", sync_to_thread=False, opt=described(answers=(ModelList, anthropic.ModelPage))
    )
    def list_models(request: Request[Any, Any, Any]) -> Response[bytes]:
        """All configured models, loaded or not, in the words of the client's dialect."""
        if VERSION in request.headers:
            return send_json(anthropic.model_page(engine.models()))
        return send_json(ModelList(data=[_model(card) for card in engine.models()]))

    @get(
        "/v1/models/{model_id:path}",
        sync_to_thread=False,
        opt=described(answers=(Model, anthropic.ModelInfo)),
    )
    def show_model(request: Request[Any, Any, Any], model_id: FromPath[str]) -> Response[bytes]:
        """One model; ModelNotFoundError (404) if it is not served here."""
        card = engine.model(model_id.removeprefix("/"))
        in_anthropics = VERSION in request.headers
        return send_json(anthropic.model_info(card) if in_anthropics else _model(card))

    return [list_models, show_model]


def _model(card: ModelCard) -> Model:
    return Model(
        id=card.id, created=card.created, state=card.state, context_length=card.context_length
    )
