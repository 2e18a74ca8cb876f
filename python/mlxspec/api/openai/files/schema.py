"""Files, as they go on the wire."""

from typing import Literal

from msgspec import Struct


class File(Struct, frozen=True, kw_only=True):
    """What is known of a file but its content."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(Struct, frozen=True, kw_only=True):
    """Answer of GET /v1/files: the latest first."""

    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool = False


class FileDeleted(Struct, frozen=True, kw_only=True):
    """Answer of DELETE /v1/files/{id}."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
