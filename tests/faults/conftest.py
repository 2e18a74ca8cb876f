"""Faults on purpose: their sizes, and servers that can be made to fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import Faulty, Sized


@pytest.fixture
def sized(request: pytest.FixtureRequest) -> Sized:
    """Small, or with `--full` as large as `make chaos` wants it."""
    full = request.config.getoption("--full")
    return lambda small, large: large if full else small


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Faulty]:
    server = Faulty(tmp_path)
    yield server
    server.end()
