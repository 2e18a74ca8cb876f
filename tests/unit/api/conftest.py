"""Fixtures of the API's tests: a scripted engine and a client of the app around it."""

from collections.abc import Iterator

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import LOCAL

from mlxspec.api.app import create_app
from mlxspec.config import Config, ServerConfig


@pytest.fixture
def engine() -> FakeEngine:
    """An engine that says `Hello world` to everything, unless a test rewrites its script."""
    return FakeEngine()


@pytest.fixture
def app(engine: FakeEngine) -> Litestar:
    """The app, with keepalives fast enough to be seen."""
    return create_app(engine, Config(server=ServerConfig(keepalive_seconds=0.02)))


@pytest.fixture
def client(app: Litestar) -> Iterator[TestClient[Litestar]]:
    """A client of the running app."""
    with TestClient(app, LOCAL, raise_server_exceptions=False) as client:
        yield client
