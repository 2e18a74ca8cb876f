"""/v1/batches: many requests in one file, answered when nobody else asks."""

import asyncio
import time
from typing import Any
from uuid import uuid4

import msgspec
from litestar import get, post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Response
from msgspec.structs import replace

from mlxspec.api.answer import send_json
from mlxspec.api.body import read_json
from mlxspec.api.openai.batches.lines import read_lines
from mlxspec.api.openai.batches.schema import Batch, BatchList, BatchParams, Counts, Faults
from mlxspec.api.openai.batches.store import BatchStore
from mlxspec.api.openai.batches.worker import BatchWorker
from mlxspec.api.openai.files.routes import owner_of
from mlxspec.api.openai.files.store import FileStore
from mlxspec.api.openapi.operation import described
from mlxspec.errors import BadRequestError

DECODER = msgspec.json.Decoder(BatchParams)
WINDOW_SECONDS = 24 * 3600


def batches_routes(
    files: FileStore, batches: BatchStore, worker: BatchWorker, max_requests: int
) -> list[HTTPRouteHandler]:
    """The handlers of one store and its worker."""

    @post("/v1/batches", status_code=200, opt=described(body=BatchParams, answers=(Batch,)))
    async def create_batch(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Work on the requests of a file; a file with faults makes a failed batch."""
        params = await read_json(request, DECODER)
        owner = owner_of(request)
        content = await asyncio.to_thread(files.content, owner, params.input_file_id)
        lines, faults = await asyncio.to_thread(read_lines, content, params.endpoint, max_requests)
        now = int(time.time())
        batch = Batch(
            id=f"batch_{uuid4().hex}",
            endpoint=params.endpoint,
            errors=Faults(data=faults) if faults else None,
            input_file_id=params.input_file_id,
            completion_window=params.completion_window,
            status="failed" if faults else "in_progress",
            created_at=now,
            in_progress_at=None if faults else now,
            failed_at=now if faults else None,
            expires_at=now + WINDOW_SECONDS,
            request_counts=Counts(0 if faults else len(lines), 0, 0),
            metadata=params.metadata,
        )
        batches.put(owner, batch)
        worker.wake()
        return send_json(batch)

    @get("/v1/batches", opt=described(answers=(BatchList,)))
    async def list_batches(request: Request[Any, Any, Any]) -> Response[bytes]:
        """All batches."""
        found = batches.all_of(owner_of(request))
        first, last = (found[0].id, found[-1].id) if found else (None, None)
        return send_json(BatchList(data=found, first_id=first, last_id=last))

    @get("/v1/batches/{batch_id:str}", opt=described(answers=(Batch,)))
    async def show_batch(
        request: Request[Any, Any, Any], batch_id: FromPath[str]
    ) -> Response[bytes]:
        """One batch and how far it is."""
        return send_json(batches.get(owner_of(request), batch_id))

    @post("/v1/batches/{batch_id:str}/cancel", status_code=200, opt=described(answers=(Batch,)))
    async def cancel_batch(
        request: Request[Any, Any, Any], batch_id: FromPath[str]
    ) -> Response[bytes]:
        """End a batch: requests that run come to their end, no others begin."""
        owner = owner_of(request)
        batch = batches.get(owner, batch_id)
        if batch.status != "in_progress":
            raise BadRequestError(f"the batch is {batch.status}: only a running one can end")
        ending = replace(batch, status="cancelling", cancelling_at=int(time.time()))
        return send_json(batches.put(owner, ending))

    return [create_batch, list_batches, show_batch, cancel_batch]
