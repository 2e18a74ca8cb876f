"""What each path asks of a key. Whatever is not named here asks for `admin`."""

from typing import Final

from mlxspec.api.access.key import Scope

OPEN: Final = frozenset({"/health/live"})
"""Answered to everybody: it tells a supervisor one bit."""

EVERY_KEY: Final = frozenset({"/", "/health", "/health/ready", "/version"})
"""Answered to every key, whatever its scopes."""

BY_PREFIX: Final[dict[str, Scope]] = {
    "/v1": "infer",
    "/v1/speculation": "metrics",
    "/api": "infer",
    "/api/copy": "admin",
    "/api/create": "admin",
    "/api/delete": "admin",
    "/api/pull": "admin",
    "/api/push": "admin",
    "/metrics": "metrics",
    "/completion": "infer",
    "/completions": "infer",
    "/infill": "infer",
    "/embedding": "infer",
    "/embeddings": "infer",
    "/rerank": "infer",
    "/generate": "infer",
    "/batch_generate": "infer",
    "/tokenize": "infer",
    "/detokenize": "infer",
    "/apply-template": "infer",
    "/props": "infer",
    "/openapi.json": "infer",
    "/docs": "infer",
    "/models": "infer",
    "/groups": "infer",
    "/models/load": "admin",
    "/models/unload": "admin",
    "/stats": "metrics",
    "/load": "metrics",
}
"""The longest prefix, by whole parts of the path, decides."""


def wanted_scope(path: str) -> Scope:
    """The scope that a path asks for."""
    parts = [part for part in path.split("/") if part]  # the router reads // as /, too
    prefixes = ("/" + "/".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((BY_PREFIX[it] for it in prefixes if it in BY_PREFIX), "admin")
