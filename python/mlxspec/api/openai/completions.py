"""POST /v1/completions."""

import time
from collections.abc import Sequence
from typing import Any, Self

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response
from msgspec import UNSET, Struct, UnsetType

from mlxspec.api.answer import Completed
from mlxspec.api.body import read_json
from mlxspec.api.exchange import Exchange
from mlxspec.api.openai.answer import Answerer, Wanted
from mlxspec.api.openai.convert import completion_requests
from mlxspec.api.openai.logprobs import TextLogprobs
from mlxspec.api.openai.params import CompletionParams
from mlxspec.api.openai.schema import TextChoice, TextCompletion, TokenUsage
from mlxspec.api.openai.service_tier import UsedTier, used_tier
from mlxspec.api.openai.wording import UNMEASURED, Measured
from mlxspec.api.openapi.operation import described
from mlxspec.api.stream import NDJSON, SSE
from mlxspec.engine.request import Delta, FinishReason, GenerationRequest, TokenLogprobs
from mlxspec.errors import BadRequestError

DECODER = msgspec.json.Decoder(CompletionParams)


def completions_route(answerer: Answerer) -> HTTPRouteHandler:
    """The text completion handler of one engine."""

    @post(
        "/v1/completions",
        status_code=200,
        opt=described(
            body=CompletionParams,
            answers=(TextCompletion,),
            events=TextCompletion,
            framings=(SSE.media_type, NDJSON.media_type),
        ),
    )
    async def create_completion(request: Request[Any, Any, Any]) -> Response[Any]:
        """Continue one text or many, one choice each: whole, or as a stream of chunks."""
        params = await read_json(request, DECODER)
        wanted = wanted_texts(params)
        wording = CompletionWording.of(params, wanted.requests, Exchange.of(request).id)
        return await answerer.answer(request, params, wanted, wording)

    return create_completion


def wanted_texts(params: CompletionParams) -> Wanted:
    """What is to be generated; BadRequestError names the field at fault."""
    kept = params.n or 1
    best_of = kept if params.best_of is None else params.best_of
    if best_of < kept or (best_of > kept and params.stream):
        way = "it must not be below n, and a stream cannot choose: send best_of equal to n"
        raise BadRequestError(f"best_of={best_of} with n={kept}: {way}", param="best_of")
    if params.echo and params.logprobs is not None:
        raise BadRequestError(
            "logprobs of an echoed prompt are not supported: leave out echo or logprobs",
            param="logprobs",
        )
    return Wanted(completion_requests(params), best_of, kept)


class CompletionWording(Struct, frozen=True):
    """Words one text completion; see `Wording`."""

    id: str
    created: int
    model: str
    echoes: list[str]
    """What each choice begins with: its prompt if the client asked for it, else nothing."""
    no_usage: UnsetType | None
    """`usage` of chunks without one: null if the client asked for usage, else left out."""
    with_logprobs: bool
    service_tier: UsedTier | UnsetType

    @classmethod
    def of(
        cls, params: CompletionParams, wanted: Sequence[GenerationRequest], request_id: str
    ) -> Self:
        """The wording for one request, dated now; BadRequestError if ids shall be echoed."""
        asked = bool(params.stream_options and params.stream_options.include_usage)
        echoes = [_echo(request) if params.echo else "" for request in wanted]
        return cls(
            f"cmpl-{request_id}",
            int(time.time()),
            params.model,
            [echo for echo in echoes for _ in range(params.n or 1)],
            None if asked else UNSET,
            params.logprobs is not None,
            used_tier(params.service_tier),
        )

    def opening(self, index: int) -> TextCompletion | None:
        """The echoed prompt."""
        return self._chunk(index, self.echoes[index]) if self.echoes[index] else None

    def news(self, index: int, delta: Delta) -> list[TextCompletion]:
        """New text."""
        if not (delta.text or delta.logprobs):
            return []
        return [self._chunk(index, delta.text, logprobs=delta.logprobs)]

    def finish(self, index: int, reason: FinishReason, measured: Measured) -> TextCompletion:
        """An empty text and the reason."""
        return self._chunk(index, "", reason, measured)

    def usage(self, usage: TokenUsage, measured: Measured) -> TextCompletion:
        """Token counts, and no choices: the only such chunk."""
        return self._answer([], usage, measured)

    def whole(
        self, choices: Sequence[Completed], usage: TokenUsage, measured: Measured
    ) -> TextCompletion:
        """The answer that is not streamed."""
        texts = [
            TextChoice(
                index=index,
                text=echo + choice.text,
                logprobs=TextLogprobs.of(choice.logprobs, len(echo))
                if self.with_logprobs
                else None,
                finish_reason=choice.finish_reason,
            )
            for index, (echo, choice) in enumerate(zip(self.echoes, choices, strict=True))
        ]
        return self._answer(texts, usage, measured)

    def _logprobs(self, choice: Completed, start: int) -> TextLogprobs | None:
        return TextLogprobs.of(choice.logprobs, start) if self.with_logprobs else None

    def _chunk(
        self,
        index: int,
        text: str,
        reason: FinishReason | None = None,
        measured: Measured = UNMEASURED,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> TextCompletion:
        start = len(self.echoes[index])
        choice = TextChoice(
            index=index,
            text=text,
            logprobs=TextLogprobs.of(logprobs, start) if logprobs else None,
            finish_reason=reason,
        )
        return self._answer([choice], self.no_usage, measured)

    def _answer(
        self,
        choices: list[TextChoice],
        usage: TokenUsage | UnsetType | None,
        measured: Measured,
    ) -> TextCompletion:
        return TextCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=choices,
            usage=usage,
            service_tier=self.service_tier,
            metrics=measured.metrics,
            timings=measured.timings,
        )


def _echo(request: GenerationRequest) -> str:
    if not isinstance(request.prompt, str):
        raise BadRequestError(
            "echo of token ids is not supported: send the prompt as text", param="echo"
        )
    return request.prompt
