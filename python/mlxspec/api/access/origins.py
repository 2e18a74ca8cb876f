"""Which web pages may talk to the server: none but its own, unless the user names them.

A browser says where a page is from in `Origin` (and, where it sends none, in `Sec-Fetch-Site`).
Programs say nothing and are not concerned.
"""

from collections.abc import Iterable

MAX_AGE_SECONDS = 600
EXPOSED = b"x-request-id, retry-after"


class AllowedOrigins:
    """Origins such as `https://chat.example.org`; `app://*` is a whole scheme, `*` is everybody."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        wanted = {origin.lower() for origin in origins}
        self._all = "*" in wanted
        self._schemes = tuple(it.removesuffix("*") for it in wanted if it.endswith("://*"))
        self._exact = wanted

    def allows(self, origin: str) -> bool:
        """Whether the user named this origin."""
        lower = origin.lower()
        return self._all or lower in self._exact or lower.startswith(self._schemes)


def is_own(origin: str, authority: str) -> bool:
    """Whether a page of this origin came from the server itself, reached under `authority`."""
    return origin.lower() in {f"http://{authority.lower()}", f"https://{authority.lower()}"}


def cors_headers(origin: str) -> list[tuple[bytes, bytes]]:
    """What lets a page of an allowed origin read the answer."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"Origin"),
    ]


def preflight_headers(origin: str, asked_headers: str) -> list[tuple[bytes, bytes]]:
    """What lets a page of an allowed origin send the request it asks about."""
    return [
        *cors_headers(origin),
        (b"access-control-allow-methods", b"GET, POST, DELETE"),
        (b"access-control-allow-headers", asked_headers.encode("latin-1") or b"content-type"),
        (b"access-control-max-age", str(MAX_AGE_SECONDS).encode()),
    ]
