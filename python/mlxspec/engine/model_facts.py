"""What the scheduler is told of a loaded model and its device."""

from typing import Any, NamedTuple

from msgspec import Struct


class DeviceShape(NamedTuple):
    """How steps are laid out on a device (docs/steps.md)."""

    padded: bool
    slab_slots: int
    step_tokens: int
    prefill_chunk: int
    view_step: int


DEVICE_SHAPES = {
    # Every token costs: no padding, attention over just the positions in use.
    "cpu": DeviceShape(False, 16, 256, 96, 32),
    # Launches cost more than tokens, and new shapes most: few shapes, padded to whole rows.
    "cuda": DeviceShape(True, 32, 2048, 256, 1 << 20),
    "metal": DeviceShape(True, 16, 1024, 128, 1 << 20),
}


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What the scheduler needs to know of a loaded model: `ModelShape` in Rust."""

    max_context: int
    total_blocks: int
    slab_slots: int
    step_tokens: int
    prefill_chunk: int
    view_step: int
    padded: bool
    plain: bool
    whole: bool
    step_cost: list[tuple[int, float]]
    rect_cost: float
    fingerprint: str
    kv_key: str | None
    takes_drafter: bool

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)
