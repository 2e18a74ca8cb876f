"""How documents are scored against a query: cosines of embeddings, or a cross-encoder's figure."""

import math

from mlxspec.engine.request import Embedded, EmbeddingRequest, Reranked, RerankRequest, Vector


def both_sides(request: RerankRequest) -> EmbeddingRequest:
    """What to embed: the query, and the documents behind it."""
    return EmbeddingRequest(
        model=request.model,
        inputs=[request.query, *request.documents],
        truncate=request.truncate,
        param=request.param,
        priority=request.priority,
        timeout_seconds=request.timeout_seconds,
        keep_alive=request.keep_alive,
    )


def cosines(embedded: Embedded) -> Reranked:
    """Scores of the documents by vectors of length 1, that of the query first."""
    query, *documents = embedded.vectors
    scores = [max(-1.0, min(1.0, float(query @ document))) for document in documents]
    return Reranked(scores, embedded.num_tokens, "cosine")


def probability(score: Vector) -> float:
    """A cross-encoder's figure (1,), between 0 and 1: the logistic function of it."""
    figure = float(score[0])
    return 0.5 * (1 + math.tanh(figure / 2))
