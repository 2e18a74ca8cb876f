"""/v1/files: what batches read and write."""

import asyncio
from typing import Any

from litestar import delete, get, post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Response

from mlxspec.api.answer import send_json
from mlxspec.api.exchange import Exchange
from mlxspec.api.openai.files.schema import File, FileDeleted, FileList
from mlxspec.api.openai.files.store import FileStore
from mlxspec.api.openai.files.upload import read_upload
from mlxspec.api.openapi.operation import described

BINARY = "application/octet-stream"


def files_routes(store: FileStore) -> list[HTTPRouteHandler]:
    """The handlers of one store."""

    @post("/v1/files", status_code=200, opt=described(answers=(File,)))
    async def upload_file(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Keep a file, sent as a form with `file` and `purpose`."""
        upload = await read_upload(request)
        owner = owner_of(request)
        file = await store.add(owner, upload.filename, upload.purpose, upload.content)
        return send_json(file)

    @get("/v1/files", opt=described(answers=(FileList,)))
    async def list_files(request: Request[Any, Any, Any]) -> Response[bytes]:
        """All files, or those of one `purpose`."""
        files = store.all_of(owner_of(request), request.query_params.get("purpose"))
        first, last = (files[0].id, files[-1].id) if files else (None, None)
        return send_json(FileList(data=files, first_id=first, last_id=last))

    @get("/v1/files/{file_id:str}", opt=described(answers=(File,)))
    async def show_file(request: Request[Any, Any, Any], file_id: FromPath[str]) -> Response[bytes]:
        """What is known of a file."""
        return send_json(store.get(owner_of(request), file_id))

    @get("/v1/files/{file_id:str}/content", opt=described(text=BINARY))
    async def read_file(request: Request[Any, Any, Any], file_id: FromPath[str]) -> Response[bytes]:
        """What is in a file."""
        content = await asyncio.to_thread(store.content, owner_of(request), file_id)
        return Response(content=content, media_type=BINARY)

    @delete("/v1/files/{file_id:str}", status_code=200, opt=described(answers=(FileDeleted,)))
    async def delete_file(
        request: Request[Any, Any, Any], file_id: FromPath[str]
    ) -> Response[bytes]:
        """Forget a file."""
        store.delete(owner_of(request), file_id)
        return send_json(FileDeleted(id=file_id))

    return [upload_file, list_files, show_file, read_file, delete_file]


def owner_of(request: Request[Any, Any, Any]) -> str:
    """Whose files a request may see: those of its API key."""
    caller = Exchange.of(request).caller
    return "" if caller is None else caller.id
