"""Ollama's endpoints that this server has not: refused with the way out."""

from typing import Any

from litestar import route
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler

from mlxspec.errors import MlxspecError

WAYS_OUT = {
    "/api/create": "models are not made over http: mlxspec import, then serve the new name",
    "/api/copy": "models are not copied over http: give the model a second id in --config",
    "/api/push": "models are not pushed from here: use the hub's own client",
    "/api/delete": "models are not deleted over http: mlxspec rm",
}
"""What to do instead, by path."""


class NotImplementedHereError(MlxspecError):
    """The dialect has this endpoint, the server has not."""

    status = 501
    type = "invalid_request_error"
    code = "not_implemented"


def missing_routes() -> HTTPRouteHandler:
    """One handler for all that is missing."""

    @route(
        list(WAYS_OUT),
        http_method=["POST", "DELETE"],
        include_in_schema=False,
        sync_to_thread=False,
    )
    def refuse(request: Request[Any, Any, Any]) -> None:
        """Say so."""
        raise NotImplementedHereError(WAYS_OUT[request.scope["path"]])

    return refuse
