"""What a client may ask of OpenAI's Responses and not of this server."""

from typing import Any

from mlxspec.api.openai.refusals import Refusal


def _given(value: Any) -> bool:
    return bool(value)


PROMPT = (
    Refusal("conversation", _given, "conversation is not supported: send previous_response_id"),
    Refusal("prompt", _given, "stored prompts are not supported: send input and instructions"),
)

RESPONSE = (
    *PROMPT,
    Refusal("background", _given, "background is not supported: send stream, or wait"),
    Refusal("top_logprobs", _given, "top_logprobs={value} is not supported: leave it out"),
)
