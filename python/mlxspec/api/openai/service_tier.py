"""OpenAI's service tiers, and vLLM's priority: who goes first."""

from typing import Final, Literal

from msgspec import UNSET, UnsetType

Tier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
UsedTier = Literal["default", "flex", "priority"]

USED: Final[dict[Tier, UsedTier]] = {
    "auto": "default",
    "default": "default",
    "flex": "flex",
    "scale": "default",
    "priority": "priority",
    "fast": "priority",
}
"""What each tier is here: there is no other capacity to scale to."""

LEVELS: Final[dict[UsedTier, int]] = {"default": 0, "flex": 6, "priority": -6}
"""The scheduler's levels: a minute behind others, or ahead of them."""


def used_tier(asked: Tier | None) -> UsedTier | UnsetType:
    """The tier that serves a request; left out of answers to those who name none."""
    return UNSET if asked is None else USED[asked]


def priority(wanted: int | None, tier: Tier | None) -> int:
    """The scheduler's priority: the request's own number, else that of its tier."""
    if wanted is not None:
        return wanted
    return LEVELS[USED[tier or "default"]]
