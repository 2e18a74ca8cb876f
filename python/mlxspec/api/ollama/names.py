"""Ollama's clients may add `:latest` to a model's name."""

from mlxspec.api.ports import EngineLike
from mlxspec.engine.request import ModelCard
from mlxspec.errors import ModelNotFoundError

LATEST = ":latest"


def find_card(engine: EngineLike, name: str) -> ModelCard:
    """The served model that a client means; ModelNotFoundError if there is none."""
    cards = {card.id: card for card in engine.models()}
    card = cards.get(name) or cards.get(name.removesuffix(LATEST))
    if card is None:
        served = ", ".join(cards) or "none"
        raise ModelNotFoundError(f"model {name!r} not found: use one of {served}", param="model")
    return card
