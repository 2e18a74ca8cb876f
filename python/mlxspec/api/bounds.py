"""What request fields of any dialect may hold, and how they become the engine's values."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from mlxspec.errors import BadRequestError

Unit = Annotated[float, Meta(ge=0, le=1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Repetition = Annotated[float, Meta(ge=0.01, le=100)]
TopK = Annotated[int, Meta(ge=-1, lt=2**31)]
NumTokens = Annotated[int, Meta(ge=0)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Priority = Annotated[int, Meta(ge=-1000, le=1000)]
NumDrafts = Annotated[int, Meta(ge=0, lt=2**31)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]

MAX_TOKENS = 2**31 - 1
MAX_STOP_BYTES = 256


def num_tokens(wanted: int | None) -> int | None:
    """A limit the engine can count to; None stays no limit."""
    return None if wanted is None else min(wanted, MAX_TOKENS)


def seed(wanted: int | None) -> int | None:
    """Clients send any integer, negative ones too; the engine's seeds have 64 bits, unsigned."""
    return None if wanted is None else wanted % 2**64


def stop_strings(strings: Sequence[str], param: str) -> tuple[str, ...]:
    """The strings, none empty or very long; BadRequestError names the field."""
    for text in strings:
        num_bytes = len(text.encode())
        if not 0 < num_bytes <= MAX_STOP_BYTES:
            raise BadRequestError(
                f"a stop string has {num_bytes} bytes: send 1 to {MAX_STOP_BYTES}", param=param
            )
    return tuple(strings)
