"""An API key: who may do what, for how long and how often. Only its hash is ever kept.

A key is 256 random bits, so a plain SHA-256 hides it; a slow hash would protect nothing more.
"""

import hashlib
import secrets
import time
from typing import Annotated, Literal, Self

from msgspec import Meta, Struct

Scope = Literal["infer", "admin", "metrics"]
"""What a route asks for: answers of models, changes of the server, or figures."""

PREFIX = "mlx_"
Positive = Annotated[int, Meta(ge=1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


def digest(text: str) -> str:
    """The hash under which a key's text is kept, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class ApiKey(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key as the key file holds it; times in seconds since 1970, limits None for none."""

    id: str
    """Names the key in logs and on the command line; also its domain in shared caches."""
    label: str
    sha256: Digest
    scopes: tuple[Scope, ...]
    created: int
    expires: int | None = None
    max_concurrent: Positive | None = None
    requests_per_minute: Positive | None = None

    @classmethod
    def create(
        cls,
        label: str,
        scopes: tuple[Scope, ...],
        *,
        expires: int | None = None,
        max_concurrent: int | None = None,
        requests_per_minute: int | None = None,
    ) -> tuple[Self, str]:
        """A fresh key and its text, which nobody can recover from the key."""
        text = PREFIX + secrets.token_urlsafe(32)
        key = cls(
            id=secrets.token_hex(4),
            label=label,
            sha256=digest(text),
            scopes=scopes,
            created=int(time.time()),
            expires=expires,
            max_concurrent=max_concurrent,
            requests_per_minute=requests_per_minute,
        )
        return key, text

    def expired(self, now: float) -> bool:
        """Whether its time is over at `now`."""
        return self.expires is not None and now >= self.expires


def from_digest(sha256: str) -> ApiKey:
    """The key of `MLXSPEC_API_KEY`: every scope, no end, no limits."""
    return ApiKey(
        id="environment",
        label="MLXSPEC_API_KEY",
        sha256=sha256,
        scopes=("infer", "admin", "metrics"),
        created=0,
    )
