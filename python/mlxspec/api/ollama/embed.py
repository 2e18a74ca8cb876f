"""POST /api/embed, and /api/embeddings, which is its elder of one text and one vector."""

from typing import Annotated, Any

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Meta, Struct

from mlxspec.api.answer import send_json
from mlxspec.api.body import read_json
from mlxspec.api.bounds import Name
from mlxspec.api.disconnect import unless_client_leaves
from mlxspec.api.exchange import Exchange
from mlxspec.api.ollama.keep_alive import keep_alive_seconds
from mlxspec.api.ollama.names import find_card
from mlxspec.api.ollama.params import KeepAlive
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.api.reading import MAX_TEXTS, read_texts
from mlxspec.engine.request import Embedded, EmbeddingRequest


class EmbedParams(Struct, frozen=True, kw_only=True):
    """Body of POST /api/embed. Texts that are too long are cut, unless `truncate` is false."""

    model: Name
    input: str | Annotated[list[str], Meta(max_length=MAX_TEXTS)] = ""
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=0, lt=2**31)] | None = None
    keep_alive: KeepAlive = None


class EmbeddingsParams(Struct, frozen=True, kw_only=True):
    """Body of POST /api/embeddings."""

    model: Name
    prompt: str = ""
    keep_alive: KeepAlive = None


class Embeddings(Struct, frozen=True, kw_only=True):
    """Answer of POST /api/embed. Durations are nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OneEmbedding(Struct, frozen=True):
    """Answer of POST /api/embeddings."""

    embedding: list[float]


EMBED = msgspec.json.Decoder(EmbedParams)
EMBEDDINGS = msgspec.json.Decoder(EmbeddingsParams)


def embed_routes(engine: EngineLike) -> list[HTTPRouteHandler]:
    """Ollama's embedding handlers of one engine."""

    async def embedded(
        request: Request[Any, Any, Any],
        params: EmbedParams | EmbeddingsParams,
        texts: list[str],
        *,
        truncate: bool,
        dimensions: int | None = None,
    ) -> tuple[Embedded, float]:
        """The vectors, and the seconds that the model took to come.

        Without a text it is loaded, or let go if it is not to be kept.
        """
        card, keep_alive = find_card(engine, params.model), keep_alive_seconds(params.keep_alive)
        name, exchange = card.id, Exchange.of(request)
        exchange.facts.update(model=name)
        came = exchange.elapsed_seconds
        if not texts:
            move = engine.unload(name) if keep_alive == 0 else engine.load(name, keep_alive)
            await unless_client_leaves(move, request.receive)
            return Embedded([], 0), exchange.elapsed_seconds - came
        if card.state != "resident":
            await unless_client_leaves(engine.load(name), request.receive)
        loaded = exchange.elapsed_seconds - came
        wanted = EmbeddingRequest(
            model=name,
            inputs=texts,
            dimensions=dimensions or None,
            truncate=truncate,
            keep_alive=keep_alive,
        )
        return await read_texts(request, wanted, engine.embed), loaded

    @post("/api/embed", status_code=200, opt=described(body=EmbedParams, answers=(Embeddings,)))
    async def embed(request: Request[Any, Any, Any]) -> Response[bytes]:
        """A vector for each text."""
        params = await read_json(request, EMBED)
        texts = [params.input] if isinstance(params.input, str) else params.input
        brought, loaded = await embedded(
            request,
            params,
            [text for text in texts if text or len(texts) > 1],
            truncate=params.truncate is not False,
            dimensions=params.dimensions,
        )
        return send_json(
            Embeddings(
                model=params.model,
                embeddings=[vector.tolist() for vector in brought.vectors],
                total_duration=round(Exchange.of(request).elapsed_seconds * 1e9),
                load_duration=round(loaded * 1e9),
                prompt_eval_count=brought.num_tokens,
            )
        )

    @post(
        "/api/embeddings",
        status_code=200,
        opt=described(body=EmbeddingsParams, answers=(OneEmbedding,)),
    )
    async def embed_one(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The vector of one text."""
        params = await read_json(request, EMBEDDINGS)
        texts = [params.prompt] if params.prompt else []
        brought, _ = await embedded(request, params, texts, truncate=True)
        return send_json(OneEmbedding(brought.vectors[0].tolist() if texts else []))

    return [embed, embed_one]
