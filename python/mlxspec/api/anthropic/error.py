"""Anthropic's error object, as a whole body and as the last event of a stream that broke."""

from msgspec import Struct

from mlxspec.api.error_form import ErrorForm
from mlxspec.api.tagged import Tagged
from mlxspec.errors import MlxspecError

VERSION = "anthropic-version"
"""The header that tells Anthropic's clients from others on the paths that both have."""

OVERLOADED = 529
"""Anthropic's own status for a server with too much to do."""

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "overloaded_error",
    503: "overloaded_error",
}
"""Anthropic's type for a status of ours; other client errors are `invalid_request_error`."""


class ErrorObject(Struct, frozen=True):
    """What clients are told of one error."""

    type: str
    message: str


class ErrorBody(Tagged, frozen=True, tag="error"):
    """The whole body of a refusal; its tag is also the name of the stream's last event."""

    error: ErrorObject


def error_body(error: MlxspecError) -> ErrorBody:
    """What an Anthropic client is told of a typed error."""
    fallback = "invalid_request_error" if error.status < 500 else "api_error"
    return ErrorBody(ErrorObject(TYPES.get(error.status, fallback), error.message))


FORM = ErrorForm(error_body, ErrorBody, {429: OVERLOADED})
