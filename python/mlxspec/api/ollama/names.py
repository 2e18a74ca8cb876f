"""Ollama's clients may add `:latest` to a model's name."""

from mlxspec.api.ports import EngineLike
from mlxspec.engine.request import ModelCard
from mlxspec.errors import ModelNotFoundError

LATEST = ":latest"


def find_card(engine: EngineLike, name: str) -> ModelCard:
    """The served model that a client means; ModelNotFoundError if there is none."""
    try:
        return engine.model(name)
    except ModelNotFoundError:
        if not name.endswith(LATEST):
            raise
    return engine.model(name.removesuffix(LATEST))
