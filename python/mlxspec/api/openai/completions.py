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
from mlxspec.api.openai.logprobs import TextLogprobs, prompt_logprobs, spelled
from mlxspec.api.openai.params import CompletionParams
from mlxspec.api.openai.refusals import refuse_streamed_prompt
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
    best_of = params.best_of or kept
    if best_of < kept or (best_of > kept and params.stream):
        way = "it must not be below n, and a stream cannot choose: send best_of equal to n"
        raise BadRequestError(f"best_of={best_of} with n={kept}: {way}", param="best_of")
    requests = completion_requests(params)
    refuse_streamed_prompt(params, requests[0].prompt_logprobs)
    return Wanted(requests, best_of, kept)


class CompletionWording(Struct, frozen=True):
    """Words one text completion; see `Wording`."""

    id: str
    created: int
    model: str
    echoed: bool
    echoes: list[str | None]
    """What each choice begins with: its prompt if the client asked for it, else nothing; None for
    the text of its prompt's ids."""
    no_usage: UnsetType | None
    """`usage` of chunks without one: null if the client asked for usage, else left out."""
    logprobs: int | None
    prompt_logprobs: int | None
    service_tier: UsedTier | UnsetType

    @classmethod
    def of(
        cls, params: CompletionParams, wanted: Sequence[GenerationRequest], request_id: str
    ) -> Self:
        """The wording for one request, dated now."""
        asked = bool(params.stream_options and params.stream_options.include_usage)
        echoes = [_echo(request) if params.echo else "" for request in wanted]
        return cls(
            f"cmpl-{request_id}",
            int(time.time()),
            params.model,
            bool(params.echo),
            [echo for echo in echoes for _ in range(params.n or 1)],
            None if asked else UNSET,
            params.logprobs,
            params.prompt_logprobs,
            used_tier(params.service_tier),
        )

    def opening(self, index: int) -> TextCompletion | None:
        """The echoed prompt."""
        echo = self.echoes[index]
        return self._chunk(index, echo) if echo else None

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
        texts = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return self._answer(texts, usage, measured)

    def _choice(self, index: int, choice: Completed) -> TextChoice:
        echo = self.echoes[index]
        if echo is None:
            echo = spelled(choice.prompt)
        asked = self.prompt_logprobs
        return TextChoice(
            index=index,
            text=echo + choice.text,
            logprobs=self._logprobs(choice, echo),
            finish_reason=choice.finish_reason,
            prompt_logprobs=UNSET if asked is None else prompt_logprobs(choice.prompt, asked),
        )

    def _logprobs(self, choice: Completed, echo: str) -> TextLogprobs | None:
        if self.logprobs is None:
            return None
        told = TextLogprobs.of(choice.logprobs, len(echo))
        if not self.echoed:
            return told
        return TextLogprobs.of_prompt(choice.prompt, echo, self.logprobs) + told

    def _chunk(
        self,
        index: int,
        text: str,
        reason: FinishReason | None = None,
        measured: Measured = UNMEASURED,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> TextCompletion:
        start = len(self.echoes[index] or "")
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


def _echo(request: GenerationRequest) -> str | None:
    return request.prompt if isinstance(request.prompt, str) else None
