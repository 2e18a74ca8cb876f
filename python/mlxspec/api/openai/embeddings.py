"""POST /v1/embeddings."""

import base64
from typing import Annotated, Any, Literal

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Meta, Struct

from mlxspec.api.answer import send_json
from mlxspec.api.body import read_json
from mlxspec.api.bounds import Name, Priority, TokenId
from mlxspec.api.openai.prompts import split_prompts
from mlxspec.api.openai.service_tier import Tier, priority
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.api.reading import MAX_TEXTS, read_texts
from mlxspec.engine.request import Embedded, EmbeddingRequest, Vector
from mlxspec.errors import BadRequestError


class EmbeddingParams(Struct, frozen=True, kw_only=True):
    """Body of POST /v1/embeddings; `pooling` and `truncate` are ours."""

    model: Name
    input: str | list[TokenId | str | list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    pooling: Literal["mean", "cls", "last"] | None = None
    truncate: bool | None = None
    service_tier: Tier | None = None
    priority: Priority | None = None


class Embedding(Struct, frozen=True, kw_only=True):
    """One text's vector: its numbers, or their float32 bytes, little-endian, in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class TextUsage(Struct, frozen=True):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: TextUsage


DECODER = msgspec.json.Decoder(EmbeddingParams)


def embeddings_route(engine: EngineLike) -> HTTPRouteHandler:
    """The embedding handler of one engine."""

    @post(
        "/v1/embeddings",
        status_code=200,
        opt=described(body=EmbeddingParams, answers=(EmbeddingList,)),
    )
    async def create_embeddings(request: Request[Any, Any, Any]) -> Response[bytes]:
        """One vector for each text."""
        params = await read_json(request, DECODER)
        embedded = await read_texts(request, embedding_request(params), engine.embed)
        return send_json(worded(params, embedded))

    return create_embeddings


def embedding_request(params: EmbeddingParams) -> EmbeddingRequest:
    """What is to be embedded; BadRequestError names the field at fault."""
    inputs = split_prompts(params.input, "input", MAX_TEXTS)
    if "" in inputs:
        raise BadRequestError("a text of input is empty: leave it out", param="input")
    return EmbeddingRequest(
        model=params.model,
        inputs=inputs,
        pooling=params.pooling,
        dimensions=params.dimensions,
        truncate=bool(params.truncate),
        priority=priority(params.priority, params.service_tier),
    )


def worded(params: EmbeddingParams, embedded: Embedded) -> EmbeddingList:
    """The answer, in the form that was asked for."""
    form = _base64 if params.encoding_format == "base64" else _floats
    return EmbeddingList(
        data=[
            Embedding(index=index, embedding=form(vector))
            for index, vector in enumerate(embedded.vectors)
        ],
        model=params.model,
        usage=TextUsage(embedded.num_tokens, embedded.num_tokens),
    )


def _floats(vector: Vector) -> list[float]:
    numbers: list[float] = vector.tolist()
    return numbers


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
