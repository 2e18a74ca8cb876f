"""llama.cpp's request bodies: the fields we act on. All others are accepted and ignored."""

from typing import Annotated

from msgspec import Meta, Struct

from mlxspec.api.bounds import Name, Penalty, Repetition, Temperature, TokenId, TopK, Unit
from mlxspec.api.openai.params import ChatMessage, ChatParams


class TokenizeParams(Struct, frozen=True, kw_only=True):
    """Body of POST /tokenize: llama.cpp's `content`, or vLLM's `prompt` or `messages`."""

    model: Name | None = None
    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=2048)] | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    with_pieces: bool | None = None


class DetokenizeParams(Struct, frozen=True, kw_only=True):
    """Body of POST /detokenize."""

    model: Name | None = None
    tokens: list[TokenId]


class TemplateParams(ChatParams, frozen=True, kw_only=True):
    """Body of POST /apply-template: that of a chat, which need not name its model."""

    model: str = ""


class CommonParams(Struct, frozen=True, kw_only=True):
    """What completion and infill share. `n_predict` below zero means: no limit."""

    model: Name | None = None
    n_predict: Annotated[int, Meta(ge=-2)] | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Unit | None = None
    min_p: Unit | None = None
    seed: int | None = None
    repeat_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None


class CompletionParams(CommonParams, frozen=True, kw_only=True):
    """Body of POST /completion."""

    prompt: str | Annotated[list[TokenId], Meta(min_length=1)]


class InfillParams(CommonParams, frozen=True, kw_only=True):
    """Body of POST /infill: the text before and behind, and how what is between begins."""

    input_prefix: str
    input_suffix: str
    prompt: str = ""
