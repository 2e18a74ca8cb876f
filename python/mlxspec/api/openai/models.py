"""GET /v1/models and /v1/models/{id}; ids may contain slashes."""

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Response

from mlxspec.api.openai.schema import Model, ModelList
from mlxspec.api.ports import EngineLike
from mlxspec.api.stream import encode
from mlxspec.engine.request import ModelCard
from mlxspec.errors import ModelNotFoundError


def models_routes(engine: EngineLike) -> list[HTTPRouteHandler]:
    """The handlers that show one engine's models."""

    @get("/v1/models", sync_to_thread=False)
    def list_models() -> Response[bytes]:
        """All configured models, loaded or not."""
        return _json(ModelList(data=[_model(card) for card in engine.models()]))

    @get("/v1/models/{model_id:path}", sync_to_thread=False)
    def show_model(model_id: FromPath[str]) -> Response[bytes]:
        """One model; ModelNotFoundError (404) if it is not served here."""
        wanted = model_id.removeprefix("/")
        for card in engine.models():
            if card.id == wanted:
                return _json(_model(card))
        raise ModelNotFoundError(
            f"model {wanted} is not served here: see GET /v1/models", param="model"
        )

    return [list_models, show_model]


def _model(card: ModelCard) -> Model:
    return Model(
        id=card.id, created=card.created, state=card.state, context_length=card.context_length
    )


def _json(value: Model | ModelList) -> Response[bytes]:
    return Response(content=encode(value), media_type="application/json")
