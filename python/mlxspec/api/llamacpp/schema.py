"""llama.cpp's answers, as they go on the wire."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from mlxspec.api.timings import Timings

StopType = Literal["none", "eos", "limit", "word"]


class Piece(Struct, frozen=True):
    """A token and its text."""

    id: int
    piece: str


class Tokens(Struct, frozen=True, kw_only=True):
    """Answer of POST /tokenize; `count` and `max_model_len` are vLLM's."""

    tokens: list[int | Piece]
    count: int
    max_model_len: int | None


class Text(Struct, frozen=True, kw_only=True):
    """Answer of POST /detokenize, once under each server's key."""

    content: str
    prompt: str


class Prompt(Struct, frozen=True):
    """Answer of POST /apply-template."""

    prompt: str


class Completion(Struct, frozen=True, kw_only=True):
    """Answer of POST /completion, and each object of its stream; only the last has times."""

    content: str
    stop: bool
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    stop_type: StopType | UnsetType = UNSET
    stopping_word: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class Defaults(Struct, frozen=True):
    """What a request gets that says nothing."""

    n_ctx: int


class Modalities(Struct, frozen=True):
    """What can be sent besides text."""

    vision: bool = False
    audio: bool = False


class Props(Struct, frozen=True, kw_only=True):
    """Answer of GET /props."""

    default_generation_settings: Defaults
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str
    modalities: Modalities = Modalities()
    build_info: str
