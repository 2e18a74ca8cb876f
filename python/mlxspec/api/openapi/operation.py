"""What a handler reads and answers: said beside it, since bodies are decoded by hand."""

from typing import Any

from msgspec import Struct

OPT = "operation"
"""The key of a handler's `opt` that holds its `Operation`."""


class Operation(Struct, frozen=True, kw_only=True):
    """Types of one operation, each anything that msgspec has a schema for."""

    body: Any = None
    """What it reads; None if nothing."""
    answers: tuple[Any, ...] = ()
    """What it may answer as JSON."""
    text: str | None = None
    """The content type of an answer that is not JSON."""
    events: Any = None
    """The objects of its stream, if it has one."""
    framings: tuple[str, ...] = ()
    """The content types of the stream."""


def described(**types: Any) -> dict[str, Operation]:
    """A handler's `opt`: an `Operation` of these types."""
    return {OPT: Operation(**types)}
