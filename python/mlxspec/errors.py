"""Every error a user can cause or meet, each with its HTTP status and OpenAI error fields.

Text: lower case, the numbers that decide, then the way out.
"""

from typing import ClassVar


class MlxspecError(Exception):
    """Base of all errors shown to users.

    `status` is the HTTP status, `type` and `code` go into the OpenAI error object, `param` names
    the request field at fault, `retry_after` (seconds) is sent as `Retry-After`.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class ConfigError(MlxspecError):
    """The configuration cannot be used (unknown key, impossible value)."""

    code = "invalid_config"


class ConfigNotFoundError(MlxspecError):
    """No configuration of that name is in the folder."""

    status = 404
    type = "invalid_request_error"
    code = "config_not_found"


class ConfigExistsError(MlxspecError):
    """A configuration of that name is in the folder already."""

    status = 409
    type = "invalid_request_error"
    code = "config_exists"


class BadRequestError(MlxspecError):
    """The request body is malformed or asks for something impossible."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ContextLengthError(BadRequestError):
    """The prompt leaves no room for a token in the context, or the prediction is longer than it."""

    code = "context_length_exceeded"


class ModelNotFoundError(MlxspecError):
    """No such model is served here, or none stands at the given path."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class ModelImportError(MlxspecError):
    """A file cannot be converted into an MLX model folder, or a folder cannot be loaded."""

    status = 422
    type = "invalid_request_error"
    code = "model_not_convertible"


class AuthenticationError(MlxspecError):
    """No key was sent, or none that is in force."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDeniedError(MlxspecError):
    """The key is good, but not for this route."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class ForeignOriginError(PermissionDeniedError):
    """The request names a host that is not ours, or comes from a page that may not ask."""

    code = "foreign_origin"


class RateLimitError(MlxspecError):
    """The key's own limits are used up; try again after `retry_after` seconds."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QueueFullError(MlxspecError):
    """The submission queue is full; try again after `retry_after` seconds."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class UnavailableError(MlxspecError):
    """The model is loading, failed to load, or the server is draining."""

    status = 503
    type = "server_error"
    code = "unavailable"


class QueueTimeoutError(UnavailableError):
    """The request waited longer than the queue's deadline and never ran."""

    code = "queue_timeout"


class DeadlineError(MlxspecError):
    """The first token, or the whole answer, took longer than its deadline."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class LoadCancelledError(UnavailableError):
    """A load was broken off because nobody waits for the model any more."""


class KVFileError(MlxspecError):
    """A file of KV is torn or foreign: it is dropped, and the KV computed."""


class ModelPinnedError(MlxspecError):
    """A pinned model is not unloaded."""

    status = 409
    type = "invalid_request_error"
    code = "model_pinned"


class EngineError(MlxspecError):
    """A step failed on the device; only the requests of that step are lost."""

    code = "engine_error"
