"""What a request may ask of Ollama's API and not of this server: refused by name.

A feature that gets built loses its line here.
"""

from typing import Any

from mlxspec.api.ollama.params import CommonParams
from mlxspec.engine.request import ModelCard
from mlxspec.errors import BadRequestError

MISSING = {
    "logprobs": "logprobs is not supported: leave it out",
    "template": "a template in a request is not supported: send raw with the whole prompt",
    "context": "context is not supported: send the conversation to /api/chat",
    "images": "images are not supported: send text",
}


def refuse_unsupported(params: CommonParams) -> None:
    """Raise BadRequestError for the first field that asks for a missing feature."""
    asked: dict[str, Any] = {name: getattr(params, name, None) for name in MISSING}
    for name, text in MISSING.items():
        if asked[name]:
            raise BadRequestError(text, param=name)


def refuse_unable(card: ModelCard, params: CommonParams) -> None:
    """Raise BadRequestError for what this model cannot do, as Ollama does."""
    asked = {
        "tools": getattr(params, "tools", None),
        "thinking": params.think,
        "insert": getattr(params, "suffix", None),
    }
    for capability, value in asked.items():
        if value and capability not in card.capabilities:
            raise BadRequestError(
                f"model {card.id!r} does not support {capability}: use another, or leave it out",
                param={"thinking": "think", "insert": "suffix"}.get(capability, capability),
            )
