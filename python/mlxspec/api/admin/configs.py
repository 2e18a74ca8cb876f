"""GET /config; POST /config/save and /config/load: configurations of the server's own folder."""

import asyncio
from typing import Any

import msgspec
from litestar import get, post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Struct

from mlxspec.api.answer import send_json
from mlxspec.api.body import read_json
from mlxspec.api.bounds import Name
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.config_store import ConfigStore, as_tree, differences
from mlxspec.errors import BadRequestError, ConfigError


class SaveParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Under which name; `overwrite` if it is taken."""

    name: Name
    overwrite: bool = False


class LoadParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which configuration."""

    name: Name


class ShownConfig(Struct, frozen=True, kw_only=True):
    """The configuration in force, without keys, and the names of those in the folder."""

    config: dict[str, Any]
    saved: list[str]


class Saved(Struct, frozen=True, kw_only=True):
    """Where the configuration was written."""

    name: str
    path: str


class LoadedConfig(Struct, frozen=True, kw_only=True):
    """Keys that are in force now, and keys that differ and need a start with this file."""

    name: str
    applied: list[str]
    needs_restart: list[str]


SAVE = msgspec.json.Decoder(SaveParams)
LOAD = msgspec.json.Decoder(LoadParams)


def config_routes(engine: EngineLike, store: ConfigStore) -> list[HTTPRouteHandler]:
    """The handlers that show, save and load the configuration of one engine."""

    @get("/config", opt=described(answers=(ShownConfig,)))
    async def show() -> Response[bytes]:
        """The configuration in force."""
        saved = await asyncio.to_thread(store.names)
        return send_json(ShownConfig(config=as_tree(engine.configuration()), saved=saved))

    @post("/config/save", status_code=200, opt=described(body=SaveParams, answers=(Saved,)))
    async def save(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Write the configuration in force into the folder."""
        params = await read_json(request, SAVE)
        path = await asyncio.to_thread(
            store.save, params.name, engine.configuration(), overwrite=params.overwrite
        )
        return send_json(Saved(name=params.name, path=str(path)))

    @post("/config/load", status_code=200, opt=described(body=LoadParams, answers=(LoadedConfig,)))
    async def load(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Read a configuration, check it, and put in force what can be in a running server: who is
        in which group, how it is balanced, and the default model."""
        params = await read_json(request, LOAD)
        try:
            wanted = await asyncio.to_thread(store.load, params.name)
            before = engine.configuration()
            engine.regroup(wanted)
        except ConfigError as error:
            raise BadRequestError(error.message, param="name") from None
        now = engine.configuration()
        return send_json(
            LoadedConfig(
                name=params.name,
                applied=differences(before, now),
                needs_restart=differences(now, wanted),
            )
        )

    return [show, save, load]
