"""POST /v1/rerank and /rerank: documents by what they have to do with a query, as Jina and Cohere
word it."""

from typing import Annotated, Any

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import UNSET, Meta, Struct, UnsetType

from mlxspec.api.answer import send_json
from mlxspec.api.body import read_json
from mlxspec.api.bounds import Name, Priority
from mlxspec.api.default_model import model_or_only
from mlxspec.api.exchange import Exchange
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.api.reading import MAX_TEXTS, read_texts
from mlxspec.engine.request import Reranked, RerankRequest, ScoredBy


class Document(Struct, frozen=True):
    """A document as an object."""

    text: str


Text = Annotated[str, Meta(min_length=1)]


class RerankParams(Struct, frozen=True, kw_only=True):
    """Body of POST /v1/rerank."""

    model: Name | None = None
    query: Text
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    return_documents: bool | None = None
    truncate: bool | None = None
    priority: Priority | None = None


class Ranked(Struct, frozen=True, kw_only=True):
    """A document by its place in the request, and its score."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class RankingUsage(Struct, frozen=True):
    """Tokens of the query and of all documents."""

    prompt_tokens: int
    total_tokens: int


class Ranking(Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/rerank, best first. `scored_by` is ours: what the scores are."""

    id: str
    model: str
    results: list[Ranked]
    usage: RankingUsage
    scored_by: ScoredBy


DECODER = msgspec.json.Decoder(RerankParams)


def rerank_route(engine: EngineLike) -> HTTPRouteHandler:
    """The ranking handler of one engine."""

    @post(
        ["/v1/rerank", "/rerank"],
        status_code=200,
        opt=described(body=RerankParams, answers=(Ranking,)),
    )
    async def rank(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The documents, best first."""
        params = await read_json(request, DECODER)
        wanted = RerankRequest(
            model=model_or_only(engine, params.model),
            query=params.query,
            documents=_texts(params),
            truncate=bool(params.truncate),
            param="documents",
            priority=params.priority or 0,
        )
        reranked = await read_texts(request, wanted, engine.rerank)
        return send_json(_worded(params, wanted, reranked, Exchange.of(request).id))

    return rank


def _texts(params: RerankParams) -> list[str]:
    return [it if isinstance(it, str) else it.text for it in params.documents]


def _worded(
    params: RerankParams, wanted: RerankRequest, reranked: Reranked, request_id: str
) -> Ranking:
    scores = sorted(enumerate(reranked.scores), key=lambda it: it[1], reverse=True)
    return Ranking(
        id=f"rerank-{request_id}",
        model=wanted.model,
        results=[
            Ranked(
                index=index,
                relevance_score=score,
                document=Document(wanted.documents[index]) if params.return_documents else UNSET,
            )
            for index, score in scores[: params.top_n]
        ],
        usage=RankingUsage(reranked.num_tokens, reranked.num_tokens),
        scored_by=reranked.scored_by,
    )
