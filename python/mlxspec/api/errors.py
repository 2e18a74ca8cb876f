"""Every refusal, on every route, in the form that the route's dialect gives its errors."""

from collections.abc import Mapping
from typing import Any, ClassVar

import structlog
from litestar.connection import Request
from litestar.exceptions import HTTPException
from litestar.response import Response
from litestar.types import ExceptionHandlersMap

import mlxspec.api.anthropic.error as anthropic
import mlxspec.api.ollama.error as ollama
import mlxspec.api.openai.error as openai
from mlxspec.api.error_form import ErrorForm
from mlxspec.api.exchange import Exchange
from mlxspec.api.stream import encode
from mlxspec.errors import BadRequestError, MlxspecError

logger = structlog.get_logger("mlxspec.api")

FORMS = (("/v1/messages", anthropic.FORM), ("/api/", ollama.FORM))
"""The routes of dialects other than OpenAI's, whose form all others have."""

INTERNAL_TEXT = "internal error: the server's log has the details under this answer's x-request-id"


class UnknownRouteError(BadRequestError):
    """No handler stands at this path."""

    status = 404
    code = "unknown_url"


class MethodNotAllowedError(BadRequestError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class SlowBodyError(BadRequestError):
    """The client took too long to send its body."""

    status = 408
    code = "request_timeout"


class BodyTooLargeError(BadRequestError):
    """The body exceeds `max_body_bytes`."""

    status = 413
    code = "body_too_large"


class ClientClosedError(MlxspecError):
    """The client left; nobody reads this, but the log line has its status."""

    status: ClassVar[int] = 499
    code = "client_closed"


def exception_handlers(max_body_bytes: int) -> ExceptionHandlersMap:
    """Litestar's map from exceptions to answers, for the whole app."""

    def refuse_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        return refuse(request, _from_http(request, error, max_body_bytes), error.headers)

    return {MlxspecError: refuse, HTTPException: refuse_http, Exception: confess}


def refuse(
    request: Request[Any, Any, Any],
    error: MlxspecError,
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    """Answer a typed error; its code goes into the request's log line."""
    Exchange.of(request).facts["error"] = error.code
    return _respond(error, form_of(request), dict(headers or {}))


def confess(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer a bug of ours: the traceback goes to the log, a plain sentence to the client."""
    return refuse(request, internal_error(Exchange.of(request).id, error))


def internal_error(request_id: str, error: Exception) -> MlxspecError:
    """Log a bug's traceback and make the error that clients see instead of it."""
    logger.error("unexpected error", id=request_id, exc_info=error)
    return MlxspecError(INTERNAL_TEXT)


def form_of(request: Request[Any, Any, Any]) -> ErrorForm:
    """The form of errors on a route, for a client."""
    if anthropic.VERSION in request.headers:
        return anthropic.FORM
    return form_of_path(request.scope["path"])


def form_of_path(path: str) -> ErrorForm:
    """The form of errors on a route, unless a header says otherwise."""
    return next((form for prefix, form in FORMS if path.startswith(prefix)), openai.FORM)


def _respond(error: MlxspecError, form: ErrorForm, headers: dict[str, str]) -> Response[bytes]:
    """The HTTP answer to a typed error, with `Retry-After` where a retry may help."""
    if error.retry_after is not None or error.status in {429, 503}:
        headers["Retry-After"] = str(max(1, error.retry_after or 1))
    return Response(
        content=encode(form.body(error)),
        status_code=form.status(error),
        headers=headers,
        media_type="application/json",
    )


def _from_http(
    request: Request[Any, Any, Any], error: HTTPException, max_body_bytes: int
) -> MlxspecError:
    """Translate what Litestar itself refuses."""
    match error.status_code:
        case 404:
            return UnknownRouteError(f"unknown url: {request.method} {request.scope['path']}")
        case 405:
            return MethodNotAllowedError(
                f"{request.method} is not allowed on {request.scope['path']}: try GET or POST"
            )
        case 413:
            return BodyTooLargeError(
                f"the body exceeds {max_body_bytes} bytes: send less or raise max_body_bytes"
            )
        case status if status < 500:
            return BadRequestError(error.detail)
        case _:
            return internal_error(Exchange.of(request).id, error)
