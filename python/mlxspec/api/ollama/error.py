"""Ollama's errors: one sentence, as a whole body and as the last line of a stream that broke."""

from msgspec import Struct

from mlxspec.api.error_form import ErrorForm
from mlxspec.errors import MlxspecError


class ErrorLine(Struct, frozen=True):
    """What clients are told of one error."""

    error: str


def error_line(error: MlxspecError) -> ErrorLine:
    """What an Ollama client is told of a typed error."""
    return ErrorLine(error.message)


FORM = ErrorForm(error_line, ErrorLine, {429: 503})
"""Ollama's own full queue is 503."""
