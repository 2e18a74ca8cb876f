"""News of models coming and going, for as many listeners as there are."""

import asyncio
from collections.abc import AsyncGenerator

from mlxspec.engine.request import ModelCard

MAX_BEHIND = 1024


class ModelEvents:
    """Event loop only."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[ModelCard]] = set()

    def publish(self, card: ModelCard) -> None:
        """Tell all listeners; one that is too far behind loses the oldest."""
        for listener in self._listeners:
            if listener.full():
                listener.get_nowait()
            listener.put_nowait(card)

    async def listen(self) -> AsyncGenerator[ModelCard]:
        """Every change from now on, until the listener is closed."""
        listener: asyncio.Queue[ModelCard] = asyncio.Queue(MAX_BEHIND)
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.get()
        finally:
            self._listeners.discard(listener)
