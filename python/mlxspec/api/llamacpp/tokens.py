"""POST /tokenize, /detokenize and /apply-template: between texts and tokens."""

from typing import Any, cast

import msgspec
from litestar import post
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from mlxspec.api.answer import send_json
from mlxspec.api.body import read_json
from mlxspec.api.default_model import model_or_only
from mlxspec.api.llamacpp.params import DetokenizeParams, TemplateParams, TokenizeParams
from mlxspec.api.llamacpp.schema import Piece, Prompt, Text, Tokens
from mlxspec.api.openai.convert import chat_request
from mlxspec.api.openai.params import ChatParams
from mlxspec.api.openapi.operation import described
from mlxspec.api.ports import EngineLike
from mlxspec.engine.request import PLAIN_CHAT, ChatOptions, Message
from mlxspec.errors import BadRequestError

TOKENIZE = msgspec.json.Decoder(TokenizeParams)
DETOKENIZE = msgspec.json.Decoder(DetokenizeParams)
TEMPLATE = msgspec.json.Decoder(TemplateParams)


def tokens_routes(engine: EngineLike) -> list[HTTPRouteHandler]:
    """The handlers around the tokenizers of one engine."""

    @post("/tokenize", status_code=200, opt=described(body=TokenizeParams, answers=(Tokens,)))
    async def tokenize(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Tokens of a text, or of a conversation as the model's template renders it."""
        params = await read_json(request, TOKENIZE)
        model = model_or_only(engine, params.model)
        prompt, chat = _prompt(params)
        tokens = await engine.tokenize(model, prompt, chat, special=_wants_special(params))
        told: list[int | Piece] = [*tokens]
        if params.with_pieces:
            texts = await engine.detokenize(model, [[token] for token in tokens])
            told = [Piece(token, text) for token, text in zip(tokens, texts, strict=True)]
        length = next((card.context_length for card in engine.models() if card.id == model), None)
        return send_json(Tokens(tokens=told, count=len(tokens), max_model_len=length))

    @post("/detokenize", status_code=200, opt=described(body=DetokenizeParams, answers=(Text,)))
    async def detokenize(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The text of tokens."""
        params = await read_json(request, DETOKENIZE)
        model = model_or_only(engine, params.model)
        [text] = await engine.detokenize(model, [params.tokens])
        return send_json(Text(content=text, prompt=text))

    @post("/apply-template", status_code=200, opt=described(body=TemplateParams, answers=(Prompt,)))
    async def apply_template(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The prompt that the model's template makes of a conversation."""
        params = await read_json(request, TEMPLATE)
        model = model_or_only(engine, params.model or None)
        messages, chat = _conversation(params)
        return send_json(Prompt(await engine.render(model, messages, chat)))

    return [tokenize, detokenize, apply_template]


def _prompt(params: TokenizeParams) -> tuple[list[Message] | str, ChatOptions]:
    if params.messages is not None:
        return _conversation(ChatParams(model="", messages=params.messages))
    text = params.content if params.prompt is None else params.prompt
    if text is None:
        raise BadRequestError("there is nothing to tokenize: send content, prompt or messages")
    return text, PLAIN_CHAT


def _conversation(params: ChatParams) -> tuple[list[Message], ChatOptions]:
    wanted = chat_request(params)
    return cast(list[Message], wanted.prompt), wanted.chat


def _wants_special(params: TokenizeParams) -> bool:
    """llama.cpp leaves special tokens out unless told otherwise, vLLM puts them in."""
    wishes = [it for it in (params.add_special, params.add_special_tokens) if it is not None]
    return wishes[0] if wishes else params.content is None
