"""Answers one request of a batch as its endpoint would: the same checks, the same body."""

from collections.abc import Sequence
from contextlib import ExitStack

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mlxspec.api.answer import accept
from mlxspec.api.body import decode
from mlxspec.api.default_model import model_or_only
from mlxspec.api.openai import refusals
from mlxspec.api.openai.answer import Wanted, whole_answer
from mlxspec.api.openai.chat import ChatWording
from mlxspec.api.openai.completions import CompletionWording, wanted_texts
from mlxspec.api.openai.convert import chat_request
from mlxspec.api.openai.embeddings import EmbeddingParams, embedding_request, worded
from mlxspec.api.openai.params import ChatParams, CompletionParams
from mlxspec.api.openai.responses import refusals as response_refusals
from mlxspec.api.openai.responses.convert import generation_request, input_messages
from mlxspec.api.openai.responses.params import ResponseParams
from mlxspec.api.openai.responses.wording import ResponseWording
from mlxspec.api.openai.wording import Wording
from mlxspec.api.ports import EngineLike, GenerationLike
from mlxspec.engine.request import GenerationRequest
from mlxspec.errors import BadRequestError

CHAT = msgspec.json.Decoder(ChatParams)
COMPLETION = msgspec.json.Decoder(CompletionParams)
RESPONSE = msgspec.json.Decoder(ResponseParams)
EMBEDDING = msgspec.json.Decoder(EmbeddingParams)

PRIORITY = 360
"""The scheduler's level: an hour behind everybody else."""

IDLE_SECONDS = 3600.0
"""Nobody waits for signs of life."""


class BatchAnswerer:
    """Runs the requests of batches behind all others. For the event loop's thread."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine

    async def answer(self, endpoint: str, body: bytes, request_id: str, owner: str) -> Struct:
        """The answer that a client of the endpoint would get; raises what it would be told."""
        if endpoint == "/v1/responses":
            return await self._response(body, request_id, owner)
        if endpoint == "/v1/embeddings":
            params = decode(body, EMBEDDING)
            behind = replace(embedding_request(params), priority=PRIORITY)
            return worded(params, await self._engine.embed(behind))
        wanted, wording = _wanted(endpoint, body, request_id)
        with ExitStack() as held:
            generations: list[GenerationLike] = []
            for request in wanted.requests:
                generations += await self._open(request, wanted.copies, owner, held)
            return await whole_answer(generations, wanted, wording)

    async def _response(self, body: bytes, request_id: str, owner: str) -> Struct:
        params = decode(body, RESPONSE)
        refusals.refuse_unsupported(params, response_refusals.RESPONSE)
        if params.previous_response_id:
            raise BadRequestError(
                "a batch's responses are not stored: send the whole conversation as input",
                param="previous_response_id",
            )
        _check_whole(params.stream)
        model = model_or_only(self._engine, params.model)
        request = generation_request(params, model, input_messages(params.input))
        wording = ResponseWording(f"resp_{request_id}", model, replace(params, store=False))
        with ExitStack() as held:
            [generation] = await self._open(request, 1, owner, held)
            return await wording.whole(generation, IDLE_SECONDS)

    async def _open(
        self, request: GenerationRequest, copies: int, owner: str, held: ExitStack
    ) -> Sequence[GenerationLike]:
        salt = f"{owner}/{request.cache_salt}" if owner else request.cache_salt
        behind = replace(request, priority=PRIORITY, cache_salt=salt)
        opened = await accept(self._engine, behind, copies)
        for generation in opened:
            held.callback(generation.close)
        return opened


def _wanted(endpoint: str, body: bytes, request_id: str) -> tuple[Wanted, Wording]:
    if endpoint == "/v1/completions":
        texts = decode(body, COMPLETION)
        _check_whole(texts.stream)
        wanted = wanted_texts(texts)
        return wanted, CompletionWording.of(texts, wanted.requests, request_id)
    params = decode(body, CHAT)
    _check_whole(params.stream)
    refusals.refuse_unsupported(params, refusals.CHAT)
    copies = params.n or 1
    return Wanted([chat_request(params)], copies, copies), ChatWording.of(params, request_id)


def _check_whole(stream: bool | None) -> None:
    if stream:
        raise BadRequestError("a batch has no streams: leave out stream", param="stream")
