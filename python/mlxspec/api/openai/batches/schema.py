"""Batches and the lines of their files, as they go on the wire."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
Status = Literal["in_progress", "completed", "failed", "cancelling", "cancelled", "expired"]


class BatchParams(Struct, frozen=True, kw_only=True):
    """Body of POST /v1/batches."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"] = "24h"
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None


class Line(Struct, frozen=True, kw_only=True):
    """One request of a batch's input file."""

    custom_id: Annotated[str, Meta(max_length=512)]
    method: Literal["POST"]
    url: str
    body: Raw


class LineAnswer(Struct, frozen=True, kw_only=True):
    """A status and the body that a client would have got."""

    status_code: int
    request_id: str
    body: Any


class OutputLine(Struct, frozen=True, kw_only=True):
    """One answer in a batch's output or error file."""

    id: str
    custom_id: str
    response: LineAnswer
    error: None = None


class LineFault(Struct, frozen=True, kw_only=True):
    """Why an input file cannot be worked on."""

    code: str = "invalid_request"
    line: int | None
    message: str
    param: str | None = None


class Faults(Struct, frozen=True, kw_only=True):
    """What is wrong with an input file."""

    object: Literal["list"] = "list"
    data: list[LineFault]


class Counts(Struct, frozen=True):
    """How many of a batch's requests are done."""

    total: int
    completed: int
    failed: int


class Batch(Struct, frozen=True, kw_only=True):
    """One batch and how far it is."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: Faults | None = None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts
    metadata: dict[str, str] | None = None


class BatchList(Struct, frozen=True, kw_only=True):
    """Answer of GET /v1/batches: the latest first."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool = False
