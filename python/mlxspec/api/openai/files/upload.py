"""A file's upload: a form of several parts, read within the bounds of every body."""

from email.message import Message
from io import BytesIO
from typing import Any, NamedTuple

from litestar.connection import Request
from multipart import MultipartError, MultipartParser

from mlxspec.api.body import read_body
from mlxspec.errors import BadRequestError


class Upload(NamedTuple):
    """What a client sends to POST /v1/files."""

    filename: str
    purpose: str
    content: bytes


async def read_upload(request: Request[Any, Any, Any]) -> Upload:
    """The form's `file` and `purpose`; BadRequestError names what is missing."""
    boundary = _boundary(request.headers.get("content-type", ""))
    body = await read_body(request)
    try:
        parts = {part.name: part for part in MultipartParser(BytesIO(body), boundary)}
        purpose = parts["purpose"].value if "purpose" in parts else ""
    except (MultipartError, UnicodeDecodeError) as error:
        raise BadRequestError(f"the form cannot be read: {error}") from None
    if "file" not in parts:
        raise BadRequestError("the form has no file: send one", param="file")
    if not purpose:
        raise BadRequestError("the form has no purpose: send batch", param="purpose")
    name = parts["file"].filename or "file"
    return Upload(name[:256], purpose[:64], parts["file"].raw)


def _boundary(content_type: str) -> str:
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise BadRequestError("files are sent as multipart/form-data: send such a form")
    return boundary
