"""What a client may ask of OpenAI's Responses and not of this server."""

from typing import Any

from mlxspec.api.openai.refusals import Refusal
from mlxspec.api.openai.responses.params import TextOptions, ToolChoice


def _given(value: Any) -> bool:
    return bool(value)


def _forced(value: str | ToolChoice) -> bool:
    if isinstance(value, str):
        return value == "required"
    return value.type != "allowed_tools" or value.mode == "required"


def _not_text(value: TextOptions) -> bool:
    return value.format is not None and value.format.type != "text"


PROMPT = (
    Refusal("conversation", _given, "conversation is not supported: send previous_response_id"),
    Refusal("prompt", _given, "stored prompts are not supported: send input and instructions"),
    Refusal("tool_choice", _forced, "a forced tool_choice is not supported: send auto or none"),
    Refusal(
        "text",
        _not_text,
        "text.format {value.format.type} is not supported: describe the form in a message",
    ),
)

RESPONSE = (
    *PROMPT,
    Refusal("background", _given, "background is not supported: send stream, or wait"),
    Refusal("top_logprobs", _given, "top_logprobs={value} is not supported: leave it out"),
)
