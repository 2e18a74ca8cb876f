"""Models as llama.cpp's router shows them, with what is ours beside it."""

from typing import Literal, Self

from msgspec import UNSET, Struct, UnsetType

from mlxspec.engine.request import ModelCard, ModelState

StatusValue = Literal["unloaded", "loading", "loaded"]

_VALUES: dict[ModelState, StatusValue] = {
    "absent": "unloaded",
    "reserving": "loading",
    "loading": "loading",
    "resident": "loaded",
    "draining": "loaded",
    "evicting": "unloaded",
    "failed": "unloaded",
}


class Status(Struct, frozen=True, kw_only=True):
    """Where a model stands: llama.cpp's word for it, and ours (`phase`)."""

    value: StatusValue
    phase: ModelState
    failed: bool | UnsetType = UNSET
    error: str | UnsetType = UNSET

    @classmethod
    def of(cls, card: ModelCard) -> Self:
        """A model's status; `failed` and `error` only where its last load failed."""
        failed = card.state == "failed"
        return cls(
            value=_VALUES[card.state],
            phase=card.state,
            failed=True if failed else UNSET,
            error=card.error if card.error else UNSET,
        )


class Meta(Struct, frozen=True, kw_only=True):
    """Figures of a model, in bytes: `size` of its files, `memory` that it holds or would."""

    n_ctx: int | None
    size: int
    memory: int
    running: int
    waiting: int
    expires_in: float | None


class ShownModel(Struct, frozen=True, kw_only=True):
    """One served model."""

    id: str
    object: str = "model"
    owned_by: str = "mlxspec"
    created: int
    in_cache: bool = True
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    description: str
    type: str
    quantization: str
    pinned: bool
    status: Status
    meta: Meta

    @classmethod
    def of(cls, card: ModelCard) -> Self:
        """A served model as it stands now."""
        return cls(
            id=card.id,
            created=card.created,
            aliases=card.aliases,
            tags=card.tags,
            description=card.description,
            type=card.model_type,
            quantization=card.dtype,
            pinned=card.pinned,
            status=Status.of(card),
            meta=Meta(
                n_ctx=card.context_length,
                size=card.num_bytes,
                memory=card.memory_bytes,
                running=card.num_running,
                waiting=card.num_waiting,
                expires_in=card.expires_in,
            ),
        )


class ShownModels(Struct, frozen=True):
    """Answer of GET /models and /models/search."""

    data: list[ShownModel]
    object: str = "list"


class Progress(Struct, frozen=True):
    """How a load gets on: the part of the weights that is in memory."""

    value: float
    stages: tuple[str, ...] = ("text_model",)
    current: str = "text_model"


class Change(Struct, frozen=True):
    """The data of a `model_status` event."""

    status: StatusValue
    phase: ModelState
    progress: Progress | UnsetType = UNSET
    error: str | UnsetType = UNSET


class ModelEvent(Struct, frozen=True):
    """One event of GET /models/sse."""

    model: str
    data: Change
    event: str = "model_status"

    @classmethod
    def of(cls, card: ModelCard) -> Self:
        """The event that tells where a model stands."""
        status = Status.of(card)
        loads = card.state == "loading" and card.progress is not None
        progress = Progress(card.progress or 0.0) if loads else UNSET
        return cls(card.id, Change(status.value, status.phase, progress, status.error))
