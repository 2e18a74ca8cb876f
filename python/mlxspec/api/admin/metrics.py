"""GET /metrics: Prometheus text."""

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from mlxspec.api.openapi.operation import described
from mlxspec.metrics import ServerMetrics


def metrics_route(metrics: ServerMetrics) -> HTTPRouteHandler:
    """The scrape handler of one registry."""

    @get("/metrics", sync_to_thread=False, opt=described(text="text/plain"))
    def scrape() -> Response[bytes]:
        """All counters, gauges and histograms of this moment."""
        body, content_type = metrics.render()
        return Response(content=body, headers={"Content-Type": content_type})

    return scrape
