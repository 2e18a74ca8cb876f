"""A really started server with the demo model."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from server_process import started


@pytest.fixture(scope="session")
def server(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server of the demo model."""
    with started(tmp_path_factory.mktemp("server") / "log", "demo") as url:
        yield url


@pytest.fixture
async def client(server: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=120
    ) as connected:
        yield connected
