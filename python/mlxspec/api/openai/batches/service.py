"""Files and batches of one engine: their folder, their routes, their worker."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

from mlxspec.api.openai.batches.answerer import BatchAnswerer
from mlxspec.api.openai.batches.routes import batches_routes
from mlxspec.api.openai.batches.store import BatchStore
from mlxspec.api.openai.batches.worker import BatchWorker
from mlxspec.api.openai.files.routes import files_routes
from mlxspec.api.openai.files.store import FileStore
from mlxspec.api.ports import EngineLike
from mlxspec.config import BatchesConfig


class BatchService:
    """Without a configured folder it keeps a temporary one, made at need, gone with the app."""

    def __init__(self, engine: EngineLike, config: BatchesConfig) -> None:
        self._is_temporary = config.dir is None
        self._folder = Path(config.dir or Path(tempfile.gettempdir()) / f"mlxspec-{uuid4().hex}")
        self._files = FileStore(self._folder, config.max_bytes)
        self._batches = BatchStore(self._folder)
        answerer = BatchAnswerer(engine)
        self._worker = BatchWorker(answerer, self._files, self._batches, config)
        self._max_requests = config.max_requests

    def routes(self) -> list[HTTPRouteHandler]:
        """All handlers."""
        batches = batches_routes(self._files, self._batches, self._worker, self._max_requests)
        return [*files_routes(self._files), *batches]

    @asynccontextmanager
    async def lifespan(self, _app: Litestar) -> AsyncIterator[None]:
        """The worker lives with the app."""
        try:
            async with self._worker.running():
                yield
        finally:
            if self._is_temporary:
                shutil.rmtree(self._folder, ignore_errors=True)
