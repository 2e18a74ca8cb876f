"""Bodies and answers of the plain endpoints: prompts in, texts and measured figures out."""

from typing import Annotated

from msgspec import Meta, Struct

from mlxspec.api.bounds import Name, NumTokens, Temperature, TopK, Unit
from mlxspec.engine.request import FinishReason, RequestMetrics, Usage


class Wish(Struct, frozen=True, kw_only=True):
    """What both endpoints take besides the prompt."""

    model: Name | None = None
    max_tokens: NumTokens = 256
    temperature: Temperature = 1.0
    top_p: Unit = 1.0
    top_k: TopK = 0
    min_p: Unit = 0.0
    seed: int | None = None
    stop: Annotated[list[str], Meta(max_length=16)] = []
    speculative: bool = True


class GenerateParams(Wish, frozen=True, kw_only=True):
    """Body of POST /generate."""

    prompt: str


class BatchParams(Wish, frozen=True, kw_only=True):
    """Body of POST /batch_generate."""

    prompts: Annotated[list[str], Meta(min_length=1, max_length=64)]


class Generated(Struct, frozen=True, kw_only=True):
    """A prompt's continuation, and what was measured of it."""

    model: str
    text: str
    finish_reason: FinishReason
    usage: Usage
    metrics: RequestMetrics


class Batch(Struct, frozen=True, kw_only=True):
    """Answer of POST /batch_generate: results in the prompts' order, and figures of the whole."""

    results: list[Generated]
    completion_tokens: int
    total_ms: float
    tokens_per_second: float
