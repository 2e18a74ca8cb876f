"""POST /v1/chat/completions."""

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
from mlxspec.api.openai import refusals
from mlxspec.api.openai.answer import Answerer, Wanted
from mlxspec.api.openai.convert import chat_request
from mlxspec.api.openai.logprobs import ChatLogprobs, prompt_logprobs
from mlxspec.api.openai.params import ChatParams
from mlxspec.api.openai.schema import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    TokenUsage,
)
from mlxspec.api.openai.service_tier import UsedTier, used_tier
from mlxspec.api.openai.tool_calls import chat_deltas, whole_call
from mlxspec.api.openai.wording import UNMEASURED, Measured
from mlxspec.api.openapi.operation import described
from mlxspec.api.stream import NDJSON, SSE
from mlxspec.engine.request import Delta, FinishReason, TokenLogprobs

DECODER = msgspec.json.Decoder(ChatParams)


def chat_route(answerer: Answerer) -> HTTPRouteHandler:
    """The chat handler of one engine."""

    @post(
        "/v1/chat/completions",
        status_code=200,
        opt=described(
            body=ChatParams,
            answers=(ChatCompletion,),
            events=ChatChunk,
            framings=(SSE.media_type, NDJSON.media_type),
        ),
    )
    async def create_chat_completion(request: Request[Any, Any, Any]) -> Response[Any]:
        """Continue a conversation: whole, or as a stream of chunks."""
        params = await read_json(request, DECODER)
        refusals.refuse_unsupported(params, refusals.CHAT)
        refusals.refuse_streamed_prompt(params, params.prompt_logprobs)
        wording = ChatWording.of(params, Exchange.of(request).id)
        wanted = Wanted([chat_request(params)], params.n or 1, params.n or 1)
        return await answerer.answer(request, params, wanted, wording)

    return create_chat_completion


class ChatWording(Struct, frozen=True):
    """Words one chat answer; see `Wording`."""

    id: str
    created: int
    model: str
    no_usage: UnsetType | None
    """`usage` of chunks without one: null if the client asked for usage, else left out."""
    with_logprobs: bool
    prompt_logprobs: int | None
    service_tier: UsedTier | UnsetType

    @classmethod
    def of(cls, params: ChatParams, request_id: str) -> Self:
        """The wording for one request, dated now."""
        asked = bool(params.stream_options and params.stream_options.include_usage)
        return cls(
            f"chatcmpl-{request_id}",
            int(time.time()),
            params.model,
            None if asked else UNSET,
            bool(params.logprobs),
            params.prompt_logprobs,
            used_tier(params.service_tier),
        )

    def opening(self, index: int) -> ChatChunk:
        """The role comes first, with an empty text."""
        return self._chunk(index, ChatDelta(role="assistant", content=""))

    def news(self, index: int, delta: Delta) -> list[ChatChunk]:
        """New text, new reasoning, or a tool call: first its name, then its arguments."""
        pieces = list(chat_deltas(delta)) or ([ChatDelta(content="")] if delta.logprobs else [])
        told = [delta.logprobs] + [()] * len(pieces)
        return [
            self._chunk(index, piece, logprobs=logprobs)
            for piece, logprobs in zip(pieces, told, strict=False)
        ]

    def finish(self, index: int, reason: FinishReason, measured: Measured) -> ChatChunk:
        """An empty delta and the reason."""
        return self._chunk(index, ChatDelta(), reason, measured)

    def usage(self, usage: TokenUsage, measured: Measured) -> ChatChunk:
        """Token counts, and no choices: the only such chunk."""
        return ChatChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[],
            usage=usage,
            service_tier=self.service_tier,
            metrics=measured.metrics,
            timings=measured.timings,
        )

    def whole(
        self, choices: Sequence[Completed], usage: TokenUsage, measured: Measured
    ) -> ChatCompletion:
        """The answer that is not streamed."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[self._choice(index, choice) for index, choice in enumerate(choices)],
            usage=usage,
            prompt_logprobs=UNSET
            if self.prompt_logprobs is None
            else prompt_logprobs(choices[0].prompt, self.prompt_logprobs),
            service_tier=self.service_tier,
            metrics=measured.metrics,
            timings=measured.timings,
        )

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        reason: FinishReason | None = None,
        measured: Measured = UNMEASURED,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> ChatChunk:
        choice = ChatChunkChoice(
            index=index,
            delta=delta,
            logprobs=ChatLogprobs.of(logprobs) if logprobs else None,
            finish_reason=reason,
        )
        return ChatChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[choice],
            usage=self.no_usage,
            service_tier=self.service_tier,
            metrics=measured.metrics,
            timings=measured.timings,
        )

    def _choice(self, index: int, completed: Completed) -> ChatChoice:
        reasoning = completed.reasoning or UNSET
        message = AssistantMessage(
            content=None if completed.calls and not completed.text else completed.text,
            reasoning_content=reasoning,
            reasoning=reasoning,
            tool_calls=[whole_call(call) for call in completed.calls] or UNSET,
        )
        return ChatChoice(
            index=index,
            message=message,
            logprobs=ChatLogprobs.of(completed.logprobs) if self.with_logprobs else None,
            finish_reason=completed.finish_reason,
        )
