"""POST /completion and /infill, with llama.cpp's defaults and its account of times."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import UNSET, Struct

from mlxspec.api.answer import complete, deltas, open_generation, send_stream, send_whole
from mlxspec.api.body import read_json
from mlxspec.api.bounds import num_tokens, seed, stop_strings
from mlxspec.api.default_model import model_or_only
from mlxspec.api.exchange import Exchange
from mlxspec.api.llamacpp.params import CommonParams, CompletionParams, InfillParams
from mlxspec.api.llamacpp.schema import Completion, StopType
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike, GenerationLike
from mlxspec.api.stream import SSE
from mlxspec.api.timings import Timings
from mlxspec.engine.request import FinishReason, GenerationRequest, SamplingParams

COMPLETION = msgspec.json.Decoder(CompletionParams)
INFILL = msgspec.json.Decoder(InfillParams)
FRAMING = SSE._replace(end=b"")
TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.8, 40, 0.95, 0.05
"""llama.cpp's documented defaults."""


def completion_routes(engine: EngineLike, keepalive_seconds: float) -> list[HTTPRouteHandler]:
    """The handlers of one engine that continue a text or fill one in."""

    async def answer(
        request: Request[Any, Any, Any], params: CommonParams, prompt: str | list[int], suffix: str
    ) -> Response[Any]:
        model = model_or_only(engine, params.model)
        Exchange.of(request).facts.update(model=model, stream=bool(params.stream))
        wanted = completion_request(params, model, prompt, suffix)
        generation = await open_generation(engine, request, wanted)
        wording = CompletionWording(model)
        if not params.stream:
            return await send_whole(request, wording.whole(generation))
        return send_stream(request, wording.objects(generation, keepalive_seconds), FRAMING)

    @post(
        ["/completion", "/completions"],
        status_code=200,
        opt=_operation(CompletionParams),
    )
    async def complete_text(request: Request[Any, Any, Any]) -> Response[Any]:
        """Continue one text: whole, or as a stream of objects."""
        params = await read_json(request, COMPLETION)
        return await answer(request, params, params.prompt, "")

    @post(
        "/infill",
        status_code=200,
        opt=_operation(InfillParams),
    )
    async def fill_in(request: Request[Any, Any, Any]) -> Response[Any]:
        """Fill in between two texts: whole, or as a stream of objects."""
        params = await read_json(request, INFILL)
        return await answer(
            request, params, params.input_prefix + params.prompt, params.input_suffix
        )

    return [complete_text, fill_in]


def _operation(body: type[CommonParams]) -> dict[str, Any]:
    return described(
        body=body, answers=(Completion,), events=Completion, framings=(FRAMING.media_type,)
    )


def completion_request(
    params: CommonParams, model: str, prompt: str | list[int], suffix: str
) -> GenerationRequest:
    """The generation a body asks for; BadRequestError names the field at fault."""
    limit = params.n_predict
    stops = [params.stop] if isinstance(params.stop, str) else params.stop or []
    return GenerationRequest(
        model=model,
        prompt=prompt,
        suffix=suffix,
        sampling=SamplingParams(
            temperature=TEMPERATURE if params.temperature is None else params.temperature,
            top_k=TOP_K if params.top_k is None else max(0, params.top_k),
            top_p=TOP_P if params.top_p is None else params.top_p,
            min_p=MIN_P if params.min_p is None else params.min_p,
            # -1 means any seed to llama.cpp.
            seed=None if params.seed == -1 else seed(params.seed),
            repetition_penalty=params.repeat_penalty or 1.0,
            presence_penalty=params.presence_penalty or 0.0,
            frequency_penalty=params.frequency_penalty or 0.0,
        ),
        max_tokens=None if limit is None or limit < 0 else num_tokens(limit),
        stop=stop_strings(stops, "stop"),
        ignore_eos=bool(params.ignore_eos),
    )


class CompletionWording(Struct, frozen=True):
    """Words one completion."""

    model: str

    async def whole(self, generation: GenerationLike) -> Completion:
        """The answer that is not streamed; raises what a generation raises."""
        ended = await complete(generation)
        return self._object(ended.text, generation, (ended.finish_reason, ended.stop))

    async def objects(
        self, generation: GenerationLike, idle_seconds: float
    ) -> AsyncGenerator[Completion | None]:
        """The stream's objects in order; None where the client should hear that we live."""
        async with aclosing(deltas(generation, idle_seconds)) as news:
            async for delta in news:
                if delta is None:
                    yield None
                    continue
                end = (delta.finish_reason, delta.stop) if delta.finish_reason else None
                yield self._object(delta.text, generation, end)

    def _object(
        self, text: str, generation: GenerationLike, end: tuple[FinishReason, str | None] | None
    ) -> Completion:
        usage = generation.usage
        return Completion(
            content=text,
            stop=end is not None,
            model=self.model,
            tokens_predicted=usage.completion_tokens,
            tokens_evaluated=usage.prompt_tokens,
            stop_type=_stop_type(*end) if end else UNSET,
            stopping_word=end[1] or "" if end else UNSET,
            timings=Timings.of(usage, generation.metrics) if end else UNSET,
        )


def _stop_type(reason: FinishReason, stop: str | None) -> StopType:
    if stop is not None:
        return "word"
    return "limit" if reason == "length" else "eos"
