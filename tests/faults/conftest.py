"""Faults on purpose: their sizes, and servers that can be made to fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import PARTS, Faulty, Sized

from server_process import started

ROOMY = ["--max-running", "64", "--max-waiting", "256"]
SOON_FULL = ["--kv-memory", "64MiB", "--shared-suffix-memory", "1MiB"]
"""Caches that fill within seconds instead of days."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "part" in metafunc.fixturenames:
        num_parts = PARTS if metafunc.config.getoption("full") else 1
        marked = [pytest.param(part, marks=pytest.mark.parts) for part in range(num_parts)]
        metafunc.parametrize("part", marked)


@pytest.fixture
def sized(request: pytest.FixtureRequest) -> Sized:
    """Small, or with `--full` as large as `make chaos` and `make fuzz` want it."""
    full = request.config.getoption("--full")
    return lambda small, large: large if full else small


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    server = Faulty(tmp_path)
    yield server
    server.end()


@pytest.fixture(scope="session")
def demo_url(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the demo model that takes many clients and keeps little of what they said."""
    log = tmp_path_factory.mktemp("demo") / "log"
    with started(log, "demo", *ROOMY, *SOON_FULL) as url:
        yield url
