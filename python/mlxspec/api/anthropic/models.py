"""The served models as Anthropic's clients know them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from mlxspec.engine.request import ModelCard


class ModelInfo(Struct, frozen=True, kw_only=True):
    """One served model."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: datetime
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int | None


class ModelPage(Struct, frozen=True, kw_only=True):
    """All served models: one page always."""

    data: list[ModelInfo]
    first_id: str | None
    last_id: str | None
    has_more: bool = False


def model_info(card: ModelCard) -> ModelInfo:
    """One model in Anthropic's words."""
    return ModelInfo(
        id=card.id,
        display_name=card.id,
        created_at=datetime.fromtimestamp(card.created, UTC),
        max_input_tokens=card.context_length,
    )


def model_page(cards: Sequence[ModelCard]) -> ModelPage:
    """All models in Anthropic's words."""
    data = [model_info(card) for card in cards]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return ModelPage(data=data, first_id=first, last_id=last)
