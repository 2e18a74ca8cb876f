"""GET /v1/speculation/report: what speculation did, measured."""

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Struct

from mlxspec.api.answer import send_json
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.engine.speculation import SpeculationReport


class ReportList(Struct, frozen=True, kw_only=True):
    """One report per served model."""

    object: str = "list"
    data: list[SpeculationReport]


def speculation_route(engine: EngineLike) -> HTTPRouteHandler:
    """The report handler of one engine."""

    @get("/v1/speculation/report", sync_to_thread=False, opt=described(answers=(ReportList,)))
    def report() -> Response[bytes]:
        """Counts and times since each model was loaded."""
        return send_json(ReportList(data=list(engine.speculation())))

    return report
