"""How one endpoint words its answer: the part in which chats and text completions differ."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct, UnsetType

from mlxspec.api.answer import Completed
from mlxspec.api.openai.schema import TokenUsage
from mlxspec.engine.request import Delta, FinishReason, RequestMetrics

Metrics = RequestMetrics | None
"""Of the one generation; None if an answer has several."""


class Wording(Protocol):
    """The answer to one request, as structs to encode."""

    def opening(self, index: int) -> Struct | None:
        """The chunk before a choice's first token, if it has one."""
        ...

    def news(self, index: int, delta: Delta) -> Sequence[Struct]:
        """The chunks of what is new, if anything is."""
        ...

    def finish(self, index: int, reason: FinishReason, metrics: Metrics | UnsetType) -> Struct:
        """The chunk that ends a choice."""
        ...

    def usage(self, usage: TokenUsage, metrics: Metrics) -> Struct:
        """The chunk without choices that ends the stream."""
        ...

    def whole(self, choices: Sequence[Completed], usage: TokenUsage, metrics: Metrics) -> Struct:
        """The answer that is not streamed."""
        ...
