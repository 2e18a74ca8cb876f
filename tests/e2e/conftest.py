"""A really started server with the demo model."""

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from openai import AsyncOpenAI

from server_process import started


@pytest.fixture(scope="session")
def server(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server of the demo model."""
    with started(tmp_path_factory.mktemp("server") / "log", "demo") as url:
        yield url


@pytest.fixture(scope="session")
def short_model(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's first layer: as quick as a draft model, and seldom right."""
    folder = tmp_path_factory.mktemp("models") / "short"
    shutil.copytree(demo_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    for path in folder.glob("*.safetensors"):
        kept = {
            name: value
            for name, value in mx.load(str(path)).items()
            if not name.startswith("model.layers.") or int(name.split(".")[2]) < 1
        }
        mx.save_safetensors(str(path), kept, metadata={"format": "mlx"})
    return folder


@pytest.fixture
async def client(server: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=120
    ) as connected:
        yield connected
