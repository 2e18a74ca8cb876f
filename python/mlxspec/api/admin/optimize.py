"""GET /optimize: what to set otherwise, by what was measured."""

from collections.abc import Sequence

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Struct

from mlxspec.api.answer import send_json
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.engine.advice import Advice


class AdviceList(Struct, frozen=True, kw_only=True):
    """Answer of GET /optimize; empty where nothing gives reason."""

    object: str = "list"
    data: Sequence[Advice]


def optimize_route(engine: EngineLike) -> HTTPRouteHandler:
    """The handler that advises whoever configures one engine."""

    @get("/optimize", sync_to_thread=False, opt=described(answers=(AdviceList,)))
    def optimize() -> Response[bytes]:
        """Advice by the figures since the start, each with those that led to it."""
        return send_json(AdviceList(data=engine.advice()))

    return optimize
