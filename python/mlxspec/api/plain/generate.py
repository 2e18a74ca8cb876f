"""POST /generate and /batch_generate."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from mlxspec.api.answer import complete, open_generation, send_whole
from mlxspec.api.body import read_json
from mlxspec.api.bounds import num_tokens, seed, stop_strings
from mlxspec.api.default_model import model_or_only
from mlxspec.api.exchange import Exchange
from mlxspec.api.openapi.operation import described
from mlxspec.api.plain.schema import Batch, BatchParams, Generated, GenerateParams, Wish
from mlxspec.api.ports import EngineLike, GenerationLike
from mlxspec.engine.request import GenerationRequest, SamplingParams

GENERATE = msgspec.json.Decoder(GenerateParams)
BATCH = msgspec.json.Decoder(BatchParams)


def plain_routes(engine: EngineLike) -> list[HTTPRouteHandler]:
    """The plain handlers of one engine."""

    @post("/generate", status_code=200, opt=described(body=GenerateParams, answers=(Generated,)))
    async def generate(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Continue one text."""
        params = await read_json(request, GENERATE)
        model = _model(engine, request, params)
        generation = await open_generation(engine, request, _wanted(params, model, params.prompt))
        return await send_whole(request, _generated(model, generation))

    @post("/batch_generate", status_code=200, opt=described(body=BatchParams, answers=(Batch,)))
    async def batch_generate(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Continue many texts, which share the steps of one batch."""
        params = await read_json(request, BATCH)
        model = _model(engine, request, params)
        wanted = [_wanted(params, model, prompt) for prompt in params.prompts]
        generations = [await open_generation(engine, request, one) for one in wanted]
        return await send_whole(request, _batch(model, generations, Exchange.of(request)))

    return [generate, batch_generate]


def _model(engine: EngineLike, request: Request[Any, Any, Any], params: Wish) -> str:
    model = model_or_only(engine, params.model)
    Exchange.of(request).facts.update(model=model, stream=False)
    return model


def _wanted(params: Wish, model: str, prompt: str) -> GenerationRequest:
    return GenerationRequest(
        model=model,
        prompt=prompt,
        sampling=SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=max(0, params.top_k),
            min_p=params.min_p,
            seed=seed(params.seed),
        ),
        max_tokens=num_tokens(params.max_tokens),
        stop=stop_strings(params.stop, "stop"),
        speculative=params.speculative,
    )


async def _generated(model: str, generation: GenerationLike) -> Generated:
    ended = await complete(generation)
    return Generated(
        model=model,
        text=ended.text,
        finish_reason=ended.finish_reason,
        usage=generation.usage,
        metrics=generation.metrics,
    )


async def _batch(model: str, generations: Sequence[GenerationLike], exchange: Exchange) -> Batch:
    results = await asyncio.gather(*(_generated(model, it) for it in generations))
    tokens = sum(result.usage.completion_tokens for result in results)
    seconds = exchange.elapsed_seconds
    return Batch(
        results=list(results),
        completion_tokens=tokens,
        total_ms=seconds * 1e3,
        tokens_per_second=tokens / seconds,
    )
