"""OpenAI's error object: all four keys, null or not."""

from msgspec import Struct

from mlxspec.api.error_form import ErrorForm
from mlxspec.errors import MlxspecError


class ErrorObject(Struct, frozen=True):
    """What clients are told of one error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    """The whole body of a refusal, and the last frame of a stream that broke."""

    error: ErrorObject


def error_body(error: MlxspecError) -> ErrorBody:
    """What an OpenAI client is told of a typed error."""
    return ErrorBody(ErrorObject(error.message, error.type, error.param, error.code))


FORM = ErrorForm(error_body, ErrorBody)
