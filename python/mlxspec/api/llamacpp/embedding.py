"""POST /embedding and /embeddings, as llama.cpp answers them: not OpenAI's, which is below /v1."""

from typing import Annotated, Any, Literal

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import Meta, Struct

from mlxspec.api.body import read_json
from mlxspec.api.bounds import Name, TokenId
from mlxspec.api.default_model import model_or_only
from mlxspec.api.openai.prompts import split_prompts
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.api.reading import MAX_TEXTS, read_texts
from mlxspec.api.stream import encode
from mlxspec.engine.request import EmbeddingRequest
from mlxspec.errors import BadRequestError

AS_IT_IS, LENGTH_1 = -1, 2


class EmbeddingParams(Struct, frozen=True, kw_only=True):
    """Body of POST /embedding. `embd_normalize` is 2 for vectors of length 1, -1 for them as they
    are."""

    model: Name | None = None
    content: str | list[TokenId | str | list[TokenId]] | None = None
    input: str | list[TokenId | str | list[TokenId]] | None = None
    embd_normalize: Literal[-1, 2] | None = None


class Embedding(Struct, frozen=True):
    """One text's vector, in a list as there could be one for each token."""

    index: int
    embedding: Annotated[list[list[float]], Meta(min_length=1, max_length=1)]


DECODER = msgspec.json.Decoder(EmbeddingParams)


def embedding_route(engine: EngineLike) -> HTTPRouteHandler:
    """llama.cpp's embedding handler of one engine."""

    @post(
        ["/embedding", "/embeddings"],
        status_code=200,
        opt=described(body=EmbeddingParams, answers=(list[Embedding],)),
    )
    async def embed(request: Request[Any, Any, Any]) -> Response[bytes]:
        """A vector for each text."""
        params = await read_json(request, DECODER)
        content = params.input if params.content is None else params.content
        if not content:
            raise BadRequestError("there is nothing to embed: send content", param="content")
        wanted = EmbeddingRequest(
            model=model_or_only(engine, params.model),
            inputs=split_prompts(content, "content", MAX_TEXTS),
            normalise=params.embd_normalize != AS_IT_IS,
            param="content",
        )
        embedded = await read_texts(request, wanted, engine.embed)
        told = [Embedding(at, [it.tolist()]) for at, it in enumerate(embedded.vectors)]
        return Response(content=encode(told), media_type="application/json")

    return embed
