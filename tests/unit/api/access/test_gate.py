"""The gate: no route without a key, no foreign host, no foreign page."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar, get
from litestar.testing import TestClient
from structlog.testing import capture_logs
from wire import CHAT, LOCAL, Peer, assert_error, chat

from mlxspec.api.access.key import ApiKey, Scope
from mlxspec.api.access.key_file import KeyFile
from mlxspec.api.access.scopes import OPEN, wanted_scope
from mlxspec.api.app import create_app
from mlxspec.config import AccessConfig, Config, ServerConfig

Client = TestClient[Litestar]
Open = Callable[..., Client]


@pytest.fixture
def opened(engine: FakeEngine) -> Iterator[Open]:
    """Opens clients of apps with an access configuration."""
    with ExitStack() as stack:

        def open_app(host: str = "127.0.0.1", **access: Any) -> Client:
            config = Config(server=ServerConfig(host=host), access=AccessConfig(**access))
            app = create_app(engine, config)
            return stack.enter_context(TestClient(app, LOCAL, raise_server_exceptions=False))

        yield open_app


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


def add(file: KeyFile, *scopes: Scope, **limits: Any) -> dict[str, str]:
    """Put a key into the file; gives the header that presents it."""
    key, text = ApiKey.create("test", scopes, **limits)
    file.write((*(file.read() if file.path.exists() else ()), key))
    return {"authorization": f"Bearer {text}"}


def every_route(app: Litestar) -> list[tuple[str, str]]:
    """Method and path of everything that the router knows, parameters filled in."""
    return [
        (method, route.path_format.replace("{", "").replace("}", ""))
        for route in app.routes
        for method in sorted(getattr(route, "methods", ["GET"]))
    ]


def test_every_route_of_the_router_but_liveness_refuses_without_a_key(
    opened: Open, key_file: KeyFile
) -> None:
    add(key_file, "infer", "admin", "metrics")
    client = opened(key_file=str(key_file.path))
    routes = every_route(client.app)
    assert len(routes) > 10
    for method, path in routes:
        response = client.request(method, path)
        if path in OPEN:
            assert response.status_code != 401
        else:
            assert response.status_code == 401, (method, path)


def test_liveness_alone_is_open() -> None:
    assert {"/health/live"} == OPEN


def test_a_route_that_nobody_named_asks_for_admin(engine: FakeEngine, key_file: KeyFile) -> None:
    @get("/shutdown", sync_to_thread=False)
    def shutdown() -> str:
        return "bye"

    infer, admin = add(key_file, "infer"), add(key_file, "admin")
    app = create_app(engine, Config(access=AccessConfig(key_file=str(key_file.path))))
    app.register(shutdown)
    with TestClient(app, LOCAL) as client:
        assert client.get("/shutdown").status_code == 401
        assert client.get("/shutdown", headers=infer).status_code == 403
        assert client.get("/shutdown", headers=admin).text == "bye"


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/chat/completions", "infer"), ("/v1/models/org/name", "infer"), ("/v1", "infer"),
        ("/api/chat", "infer"), ("/api/pull", "admin"), ("/api//pull", "admin"),
        ("/api/pull/", "admin"), ("/metrics", "metrics"), ("/v1x", "admin"), ("/", "admin"),
        ("/models/load", "admin"), ("/anything", "admin"),
    ],
)  # fmt: skip
def test_paths_ask_for_scopes(path: str, scope: str) -> None:
    assert wanted_scope(path) == scope


def test_a_key_opens_what_its_scopes_name(opened: Open, key_file: KeyFile) -> None:
    infer, metrics = add(key_file, "infer"), add(key_file, "metrics")
    client = opened(key_file=str(key_file.path))
    assert client.post(CHAT, json=chat(), headers=infer).status_code == 200
    assert client.get("/metrics", headers=metrics).status_code == 200
    for headers in (infer, metrics):
        assert client.get("/health/ready", headers=headers).status_code == 200
        assert client.get("/version", headers=headers).status_code == 200
    refused = client.post(CHAT, json=chat(), headers=metrics)
    assert "--scope infer" in assert_error(refused, 403, code="permission_denied")
    assert_error(client.get("/metrics", headers=infer), 403)


def test_cached_prefixes_are_shared_within_one_key_alone(
    opened: Open, key_file: KeyFile, engine: FakeEngine
) -> None:
    keys = [add(key_file, "infer"), add(key_file, "infer")]
    client = opened(key_file=str(key_file.path))
    for key in keys:
        for salt in ("", "", "a"):
            assert client.post(CHAT, json=chat(cache_salt=salt), headers=key).status_code == 200
    salts = [request.cache_salt for request in engine.requests]
    assert len(set(salts)) == 4
    assert (salts[0], salts[3]) == (salts[1], salts[4])


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_key_is_taken_from_both_headers(opened: Open, key_file: KeyFile, header: str) -> None:
    text = add(key_file, "infer")["authorization"].removeprefix("Bearer ")
    client = opened(key_file=str(key_file.path))
    value = f"bearer {text}" if header == "authorization" else text
    assert client.get("/v1/models", headers={header: value}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer "}, {"authorization": "Basic abc"}, {"x-api-key": ""},
        {"authorization": "Bearer mlx_wrong"}, {"x-api-key": "é"},
    ],
)  # fmt: skip
def test_a_wrong_key_is_401_in_the_api_shape(
    opened: Open, key_file: KeyFile, headers: dict[str, str]
) -> None:
    add(key_file, "infer")
    client = opened(key_file=str(key_file.path))
    raw = {name: value.encode() for name, value in headers.items()}
    assert_error(client.post(CHAT, json=chat(), headers=raw), 401, code="invalid_api_key")


def test_a_key_from_the_environment_opens_everything(opened: Open) -> None:
    from mlxspec.api.access.key import digest

    client = opened(key_sha256=digest("a-long-enough-secret"))
    assert client.get("/metrics").status_code == 401
    headers = {"authorization": "Bearer a-long-enough-secret"}
    assert client.get("/metrics", headers=headers).status_code == 200


def test_requests_at_once_and_a_minute_are_bounded_by_key(opened: Open, key_file: KeyFile) -> None:
    slow, other = add(key_file, "infer", requests_per_minute=2), add(key_file, "infer")
    client = opened(key_file=str(key_file.path))
    answers = [client.post(CHAT, json=chat(), headers=slow) for _ in range(3)]
    assert [it.status_code for it in answers] == [200, 200, 429]
    assert_error(answers[2], 429, code="rate_limit_exceeded")
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert client.post(CHAT, json=chat(), headers=other).status_code == 200
    assert client.get("/v1/models", headers=slow).status_code == 200


def test_logs_name_the_key_but_never_hold_it(opened: Open, key_file: KeyFile) -> None:
    headers = add(key_file, "infer")
    client = opened(key_file=str(key_file.path))
    text = headers["authorization"].removeprefix("Bearer ")
    with capture_logs() as lines:
        client.post(CHAT, json=chat(), headers=headers)
        client.post(CHAT, json=chat(), headers={"x-api-key": f"wrong-{text}"})
    assert [line["status"] for line in lines] == [200, 401]
    assert lines[0]["key"] == key_file.read()[0].id
    assert text not in str(lines)
    assert text not in key_file.path.read_text()


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1:8080", "127.9.8.7", "[::1]:8080"],
)
def test_loopback_names_are_ours(opened: Open, host: str) -> None:
    assert opened().get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]"],
)
def test_a_rebound_name_is_turned_away_on_every_route(opened: Open, host: str) -> None:
    client = opened()
    assert_error(client.get("/health/live", headers={"host": host}), 403, code="foreign_origin")
    response = client.post(CHAT, json=chat(), headers={"host": host})
    assert "--allowed-host" in assert_error(response, 403, code="foreign_origin")


@pytest.mark.parametrize(
    "host", ["", "a b", "localhost:", "localhost:99999999", "user@localhost", "[::1", "é", "[1.2]"]
)
def test_a_malformed_host_is_400(opened: Open, host: str) -> None:
    assert_error(opened().get("/health", headers={"host": host.encode()}), 400)


async def test_two_hosts_are_400(engine: FakeEngine) -> None:
    peer = Peer(create_app(engine, Config()), CHAT, chat())
    peer.headers += [(b"host", b"127.0.0.1")]
    await peer.run()
    assert peer.status == 400
    assert "2 host headers" in peer.body


def test_more_hosts_can_be_named_and_a_wildcard_takes_addresses(opened: Open) -> None:
    named = opened(allowed_hosts=("Chat.Example",))
    assert named.get("/health", headers={"host": "chat.example:80"}).status_code == 200
    wide = opened(host="0.0.0.0")
    assert wide.get("/health", headers={"host": "10.1.2.3:8080"}).status_code == 200
    assert wide.get("/health", headers={"host": "evil.example"}).status_code == 403
    bound = opened(host="192.168.1.5")
    assert bound.get("/health", headers={"host": "192.168.1.5"}).status_code == 200
    assert bound.get("/health", headers={"host": "192.168.1.6"}).status_code == 403


def test_foreign_pages_are_refused_and_our_own_are_not(opened: Open) -> None:
    client = opened()
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}):
        assert_error(client.post(CHAT, json=chat(), headers=headers), 403, code="foreign_origin")
        assert "access-control-allow-origin" not in client.get("/version", headers=headers).headers
    assert client.get("/version", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get("/version", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    own = {"origin": "http://localhost:80", "host": "localhost:80"}
    assert client.post(CHAT, json=chat(), headers=own).status_code == 200
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert client.options(CHAT, headers=preflight).status_code == 403


def test_an_allowed_page_may_ask_and_read(opened: Open, key_file: KeyFile) -> None:
    headers = add(key_file, "infer")
    client = opened(
        key_file=str(key_file.path), allowed_origins=("https://chat.example", "app://*")
    )
    origin = {"origin": "https://chat.example"}
    preflight = client.options(
        CHAT,
        headers={
            **origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
    asked = client.post(CHAT, json=chat(), headers=headers | origin)
    assert asked.headers["access-control-allow-origin"] == "https://chat.example"
    assert asked.headers["vary"] == "Origin"
    refused = client.post(CHAT, json=chat(), headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://chat.example"
    assert client.get("/v1/models", headers=headers | {"origin": "app://x"}).status_code == 200
    assert client.get("/v1/models", headers=headers | {"origin": "apps://x"}).status_code == 403


@given(st.text(max_size=60))
def test_any_host_text_is_a_plain_host_or_nothing(text: str) -> None:
    from mlxspec.api.access.hosts import host_of

    host = host_of(text)
    assert host is None or (host == host.lower() and not set(host) & set("/@?#[] \\"))
