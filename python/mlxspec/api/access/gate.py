"""The gate in front of all routes: the right host, no foreign page, a key that may.

It stands before the router, so a route that nobody thought of is guarded like the others.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from litestar.connection import Request
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from mlxspec.api.access.hosts import AllowedHosts, host_of
from mlxspec.api.access.key import ApiKey, from_digest
from mlxspec.api.access.key_file import KeyFile
from mlxspec.api.access.keyring import Keyring
from mlxspec.api.access.origins import AllowedOrigins, cors_headers, is_own, preflight_headers
from mlxspec.api.access.quota import Quotas
from mlxspec.api.access.scopes import EVERY_KEY, OPEN, wanted_scope
from mlxspec.api.errors import refuse
from mlxspec.api.exchange import Exchange
from mlxspec.config import Config
from mlxspec.errors import (
    AuthenticationError,
    BadRequestError,
    ForeignOriginError,
    MlxspecError,
    PermissionDeniedError,
)

Headers = Sequence[tuple[bytes, bytes]]


class Gate:
    """Lets a request through to `app`, or answers it with the refusal. Event loop only.

    `keyring` None lets everybody in who passes the checks of host and origin.
    """

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, origins: AllowedOrigins, keyring: Keyring | None
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins
        self._keyring = keyring
        self._quotas = Quotas()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one HTTP request, run it while its key's quota lasts."""
        request: Request[Any, Any, Any] = Request(scope, receive, send)
        with ExitStack() as held:
            try:
                origin = self._checked_origin(request)
                send = _with_headers(send, cors_headers(origin)) if origin else send
                if origin and _is_preflight(request):
                    await _answer_preflight(request, origin, send)
                    return
                held.enter_context(self._admit(request))
            except MlxspecError as error:
                answer = refuse(request, error).to_asgi_response(None, request)
                await answer(scope, receive, send)
                return
            await self._app(scope, receive, send)

    def _checked_origin(self, request: Request[Any, Any, Any]) -> str | None:
        """Refuse a host that is not ours and a page that is foreign; the allowed page's origin."""
        authority = _only(request, "host")
        host = None if authority is None else host_of(authority)
        if authority is None or host is None:
            raise BadRequestError("the Host header is missing or malformed: send host:port")
        if not self._hosts.allows(host):
            raise ForeignOriginError(
                f"this server does not answer as {host}: use localhost, or start it with "
                f"--allowed-host {host}"
            )
        return self._page(request, authority)

    def _page(self, request: Request[Any, Any, Any], authority: str) -> str | None:
        origin = _only(request, "origin")
        if origin is None:
            if request.headers.get("sec-fetch-site") == "cross-site":
                raise ForeignOriginError(
                    "pages of other sites may not talk to this server: see --allowed-origin"
                )
            return None
        if self._origins.allows(origin):
            return origin
        if is_own(origin, authority):
            return None
        raise ForeignOriginError(
            f"pages of {origin:.100} may not talk to this server: start it with "
            "--allowed-origin ORIGIN to let them"
        )

    def _admit(self, request: Request[Any, Any, Any]) -> AbstractContextManager[None]:
        """What to hold while the request runs; raises unless its key may make it."""
        path = request.scope["path"]
        if self._keyring is None or path in OPEN:
            return nullcontext()
        key = self._key(request, self._keyring)
        exchange = Exchange.of(request)
        exchange.caller = key
        exchange.facts["key"] = key.id
        wanted = wanted_scope(path)
        if path not in EVERY_KEY and wanted not in key.scopes:
            raise PermissionDeniedError(
                f"this key lacks the scope {wanted!r}: use one made with --scope {wanted}"
            )
        counted = wanted == "infer" and request.method == "POST"
        return self._quotas.lease(key) if counted else nullcontext()

    def _key(self, request: Request[Any, Any, Any], keyring: Keyring) -> ApiKey:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        text = bearer.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key")
        if not text:
            raise AuthenticationError(
                "this server wants an API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        key = keyring.find(text)
        if key is None:
            raise AuthenticationError("this API key is unknown, revoked or expired: use another")
        return key


def make_gate(app: ASGIApp, config: Config) -> Gate:
    """The gate of a configuration; ConfigError when its key file cannot be used."""
    access = config.access
    file = None if access.key_file is None else KeyFile(Path(access.key_file))
    fixed = () if access.key_sha256 is None else (from_digest(access.key_sha256),)
    return Gate(
        app,
        AllowedHosts(config.server.host, access.allowed_hosts),
        AllowedOrigins(access.allowed_origins),
        Keyring(file, fixed) if access.wants_key else None,
    )


def _only(request: Request[Any, Any, Any], name: str) -> str | None:
    """The header's value; two of them are as bad as a wrong one."""
    values = request.headers.getall(name, [])
    if len(values) > 1:
        raise BadRequestError(f"there are {len(values)} {name} headers: send one")
    return values[0] if values else None


def _is_preflight(request: Request[Any, Any, Any]) -> bool:
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


async def _answer_preflight(request: Request[Any, Any, Any], origin: str, send: Send) -> None:
    asked = request.headers.get("access-control-request-headers", "")
    headers = preflight_headers(origin, asked)
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _with_headers(send: Send, headers: Headers) -> Send:
    """`send`, with headers added to the answer's start."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return send_with_headers
