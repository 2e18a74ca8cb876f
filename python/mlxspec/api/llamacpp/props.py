"""GET /props: what llama.cpp's clients ask before they send anything."""

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from mlxspec import __version__
from mlxspec.api.answer import send_json
from mlxspec.api.llamacpp.schema import Defaults, Props
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.errors import UnavailableError


def props_route(engine: EngineLike, max_running: int) -> HTTPRouteHandler:
    """The handler of one engine, which runs so many requests of a model at once."""

    @get("/props", sync_to_thread=False, opt=described(answers=(Props,)))
    def props() -> Response[bytes]:
        """The first model's context and template, and how many requests run at once."""
        cards = engine.models()
        if not cards:
            raise UnavailableError("no model is served: mlxspec serve MODEL")
        first = cards[0]
        return send_json(
            Props(
                default_generation_settings=Defaults(first.context_length or 0),
                total_slots=max_running,
                model_alias=first.id,
                model_path=first.id,
                chat_template=first.chat_template,
                build_info=f"mlxspec-{__version__}",
            )
        )

    return props
