"""GET /groups and /groups/{name}: models under one more name."""

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from litestar.response import Response
from msgspec import Struct

from mlxspec.api.answer import send_json
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.engine.request import GroupCard
from mlxspec.errors import ModelNotFoundError


class Groups(Struct, frozen=True, kw_only=True):
    """Answer of GET /groups."""

    object: str = "list"
    data: list[GroupCard]


def groups_routes(engine: EngineLike) -> list[HTTPRouteHandler]:
    """The handlers that show and find one engine's groups."""

    @get("/groups", sync_to_thread=False, opt=described(answers=(Groups,)))
    def list_groups(
        q: FromQuery[str] = "",
        tag: FromQuery[str] = "",
        type: FromQuery[str] = "",  # noqa: A002 - the name on the wire
    ) -> Response[bytes]:
        """All groups, or those whose name, member or description has the text, with that tag, and
        with a member of that type."""
        found = [it for it in engine.groups() if _matches(it, q.lower(), tag, type)]
        return send_json(Groups(data=found))

    @get("/groups/{name:path}", sync_to_thread=False, opt=described(answers=(GroupCard,)))
    def show_group(name: FromPath[str]) -> Response[bytes]:
        """One group; ModelNotFoundError (404) if there is none of that name."""
        name = name.removeprefix("/")
        found = next((it for it in engine.groups() if it.id == name), None)
        if found is None:
            raise ModelNotFoundError(f"there is no group {name!r:.200}: GET /groups lists them")
        return send_json(found)

    return [list_groups, show_group]


def _matches(card: GroupCard, text: str, tag: str, kind: str) -> bool:
    texts = (card.id, *card.members, card.description)
    has_text = any(text in it.lower() for it in texts)
    return has_text and (not tag or tag in card.tags) and (not kind or kind in card.types)
