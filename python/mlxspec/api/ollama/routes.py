"""All of Ollama's endpoints."""

from litestar import route
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from mlxspec.api.ollama.embed import embed_routes
from mlxspec.api.ollama.generate import generate_routes
from mlxspec.api.ollama.missing import missing_routes
from mlxspec.api.ollama.models import models_routes
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike


def ollama_routes(engine: EngineLike, keepalive_seconds: float) -> list[HTTPRouteHandler]:
    """Ollama's handlers of one engine."""

    @route("/", http_method=["GET", "HEAD"], sync_to_thread=False, opt=described(text="text/plain"))
    def root() -> Response[str]:
        """What clients look for to know that somebody is there."""
        return Response(content="Ollama is running", media_type="text/plain")

    return [
        root,
        *generate_routes(engine, keepalive_seconds),
        *embed_routes(engine),
        *models_routes(engine),
        missing_routes(),
    ]
