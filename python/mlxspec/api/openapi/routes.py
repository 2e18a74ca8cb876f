"""GET /openapi.json, and GET /docs: the same for people, from files of this package."""

from pathlib import Path
from typing import Any

from litestar import get
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Response

from mlxspec.api.errors import UnknownRouteError
from mlxspec.api.openapi.document import document
from mlxspec.api.stream import encode

FOLDER = Path(__file__).parent / "docs"
FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
}
"""What the page needs besides itself: nothing comes from another host."""


def openapi_routes() -> list[HTTPRouteHandler]:
    """The handlers of the document and its page."""

    @get("/openapi.json", include_in_schema=False, sync_to_thread=False)
    def openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The document of the app that answers."""
        return Response(content=encode(document(request.app)), media_type="application/json")

    @get("/docs", include_in_schema=False, sync_to_thread=True)
    def page() -> Response[bytes]:
        """The page."""
        return _file("index.html", "text/html")

    @get("/docs/{name:str}", include_in_schema=False, sync_to_thread=True)
    def file(name: FromPath[str]) -> Response[bytes]:
        """A file of the page."""
        if name not in FILES:
            raise UnknownRouteError(f"unknown url: GET /docs/{name}")
        return _file(name, FILES[name])

    return [openapi, page, file]


def _file(name: str, media_type: str) -> Response[bytes]:
    return Response(content=(FOLDER / name).read_bytes(), media_type=media_type)
