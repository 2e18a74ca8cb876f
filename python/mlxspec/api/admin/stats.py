"""GET /stats: memory, models and counters of this moment, as JSON."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Struct

from mlxspec.api.admin.model_schema import ShownModel
from mlxspec.api.answer import send_json
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.engine.request import DrafterCard, MemoryUse


class Stats(Struct, frozen=True, kw_only=True):
    """Answer of GET /stats."""

    memory: MemoryUse
    models: list[ShownModel]
    drafters: Sequence[DrafterCard]
    counters: dict[str, Any]


def stats_route(engine: EngineLike) -> HTTPRouteHandler:
    """The handler that tells how one engine does."""

    @get("/stats", sync_to_thread=False, opt=described(answers=(Stats,)))
    def stats() -> Response[bytes]:
        """What `/metrics` has, and where memory has gone, for people and scripts."""
        return send_json(
            Stats(
                memory=engine.memory_use(),
                models=[ShownModel.of(card) for card in engine.models()],
                drafters=engine.drafters(),
                counters=msgspec.structs.asdict(engine.counters()),  # type: ignore[arg-type]
            )
        )

    return stats
