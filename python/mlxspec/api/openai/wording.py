"""How one endpoint words its answer: the part in which chats and text completions differ."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

from msgspec import UNSET, Struct, UnsetType

from mlxspec.api.answer import Completed
from mlxspec.api.openai.schema import TokenUsage
from mlxspec.api.ports import GenerationLike
from mlxspec.api.timings import Timings
from mlxspec.engine.request import Delta, FinishReason, RequestMetrics


class Measured(NamedTuple):
    """What was measured of an answer; null if several generations share it."""

    metrics: RequestMetrics | UnsetType | None
    timings: Timings | UnsetType | None

    @classmethod
    def of(cls, generations: Sequence[GenerationLike]) -> Self:
        """Of the one generation, when it has ended."""
        if len(generations) != 1:
            return cls(None, None)
        [one] = generations
        return cls(one.metrics, Timings.of(one.usage, one.metrics))


UNMEASURED = Measured(UNSET, UNSET)
"""Left out."""


class Wording(Protocol):
    """The answer to one request, as structs to encode."""

    def opening(self, index: int) -> Struct | None:
        """The chunk before a choice's first token, if it has one."""
        ...

    def news(self, index: int, delta: Delta) -> Sequence[Struct]:
        """The chunks of what is new, if anything is."""
        ...

    def finish(self, index: int, reason: FinishReason, measured: Measured) -> Struct:
        """The chunk that ends a choice."""
        ...

    def usage(self, usage: TokenUsage, measured: Measured) -> Struct:
        """The chunk without choices that ends the stream."""
        ...

    def whole(self, choices: Sequence[Completed], usage: TokenUsage, measured: Measured) -> Struct:
        """The answer that is not streamed."""
        ...
