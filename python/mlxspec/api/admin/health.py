"""GET /health, /health/live, /health/ready, /load and /version: for load balancers and people."""

from litestar import get
from litestar.handlers import HTTPRouteHandler

from mlxspec import __version__
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.errors import UnavailableError

Told = dict[str, str]
Count = dict[str, int]


def health_routes(engine: EngineLike) -> list[HTTPRouteHandler]:
    """The handlers that tell how one engine is; 503 when it is not well."""

    @get("/health/live", sync_to_thread=False, opt=described(answers=(Told,)))
    def live() -> Told:
        """Whether the engine thread runs: if not, restart the server."""
        if not engine.alive():
            raise UnavailableError("the engine thread has ended: restart the server")
        if engine.stuck():
            raise UnavailableError("a step hangs: restart the server")
        return {"status": "live"}

    @get(["/health", "/health/ready"], sync_to_thread=False, opt=described(answers=(Told,)))
    def ready() -> Told:
        """Whether requests are welcome now: if not, send them elsewhere or wait."""
        if not engine.ready():
            raise UnavailableError(_why_not_ready(engine), retry_after=1)
        return {"status": "ready"}

    @get("/version", sync_to_thread=False, opt=described(answers=(Told,)))
    def version() -> Told:
        """The server's version."""
        return {"version": __version__}

    @get("/load", sync_to_thread=False, opt=described(answers=(Count,)))
    def load() -> Count:
        """Requests that run and wait, as vLLM tells them: who balances load sends to the least."""
        return {"server_load": sum(it.num_running + it.num_waiting for it in engine.models())}

    return [live, ready, version, load]


def _why_not_ready(engine: EngineLike) -> str:
    if not engine.alive():
        return "not ready: the engine thread has ended"
    if engine.stuck():
        return "not ready: a step hangs"
    waiting = [f"{card.id} is {card.state}" for card in engine.models() if card.awaited]
    return f"not ready: {', '.join(waiting)}" if waiting else "not ready: the server is draining"
