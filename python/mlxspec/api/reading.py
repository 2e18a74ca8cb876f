"""Texts that are read whole: what all dialects' embeddings and rankings share."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from litestar.connection import Request

from mlxspec.api.answer import wanted_seconds
from mlxspec.api.disconnect import unless_client_leaves
from mlxspec.api.exchange import Exchange
from mlxspec.engine.request import Embedded, ReadRequest, Reranked

MAX_TEXTS = 2048
"""OpenAI's documented bound on the inputs of one request."""

Wanted = TypeVar("Wanted", bound=ReadRequest)
Read = TypeVar("Read", Embedded, Reranked)


async def read_texts(
    request: Request[Any, Any, Any],
    wanted: Wanted,
    read: Callable[[Wanted], Coroutine[Any, Any, Read]],
) -> Read:
    """What the engine's `read` makes of texts; a client that leaves ends the work for it."""
    facts = Exchange.of(request).facts
    facts.update(model=wanted.model)
    wanted = msgspec.structs.replace(wanted, timeout_seconds=wanted_seconds(request))
    brought = await unless_client_leaves(read(wanted), request.receive)
    facts.update(prompt_tokens=brought.num_tokens)
    return brought
