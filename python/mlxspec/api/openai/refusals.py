"""What a request may ask of OpenAI's API and not of this server: refused by name.

Values that ask for nothing pass. A feature that gets built
loses its line here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

from mlxspec.api.openai.params import CommonParams
from mlxspec.errors import BadRequestError


class Refusal(NamedTuple):
    """One request field, when its value asks for the missing feature, and the way out."""

    param: str
    asks: Callable[[Any], bool]
    text: str


def _forced(value: str | dict[str, Any]) -> bool:
    return value not in {"auto", "none"} if isinstance(value, str) else True


def _not_only_text(value: list[str]) -> bool:
    return any(modality != "text" for modality in value)


CHAT = (
    Refusal(
        "function_call",
        _forced,
        "a forced function_call is not supported: send tools and tool_choice",
    ),
    Refusal(
        "chat_template",
        bool,
        "chat_template is not taken from requests: leave it out, the model has its own",
    ),
    Refusal(
        "modalities", _not_only_text, 'modalities other than text are not supported: send ["text"]'
    ),
)


def refuse_streamed_prompt(params: CommonParams, prompt_logprobs: int | None) -> None:
    """Raise BadRequestError for logprobs of a prompt in a stream, which could not begin first."""
    if params.stream and prompt_logprobs is not None:
        raise BadRequestError(
            "logprobs of the prompt, and echoed token ids, are not streamed: leave out stream",
            param="stream",
        )


def refuse_unsupported(params: Struct, table: tuple[Refusal, ...]) -> None:
    """Raise BadRequestError for the first field that asks for a missing feature."""
    for refusal in table:
        value = getattr(params, refusal.param)
        if value is not None and refusal.asks(value):
            raise BadRequestError(refusal.text.format(value=value), param=refusal.param)
