"""The tokens that all servers send: all at once, so that only the way out is measured."""

from collections.abc import AsyncIterator, Sequence

from mlxspec.api.no_tokens import NO_TIMES
from mlxspec.engine.request import (
    PLAIN_CHAT,
    ChatOptions,
    Delta,
    GenerationRequest,
    Message,
    ModelCard,
    RequestMetrics,
    Usage,
)
from mlxspec.metrics import CountersLike

MODEL = "scripted"
WORD = " word"


class ScriptedGeneration:
    """As many words as were asked for, one a delta."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens

    async def __aiter__(self) -> AsyncIterator[Delta]:
        for _ in range(self._num_tokens):
            yield Delta(text=WORD, num_tokens=1)
        yield Delta(finish_reason="length")

    age_seconds = 0.0
    prompt_tokens = ()

    def close(self) -> None:
        """Nothing runs."""

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=1, completion_tokens=self._num_tokens)

    @property
    def metrics(self) -> RequestMetrics:
        return NO_TIMES


class ScriptedEngine:
    """Stands where the engine stands; never refuses and never waits."""

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self, drain_seconds: float) -> None:
        """Nothing to stop."""

    def models(self) -> Sequence[ModelCard]:
        return [ModelCard(id=MODEL, created=0, state="resident", context_length=None)]

    def ready(self) -> bool:
        return True

    def alive(self) -> bool:
        return True

    def counters(self) -> CountersLike:
        raise NotImplementedError("nobody scrapes the bench")

    async def submit_copies(
        self, request: GenerationRequest, copies: int
    ) -> list[ScriptedGeneration]:
        return [ScriptedGeneration(request.max_tokens or 1) for _ in range(copies)]

    async def tokenize(
        self,
        model: str,
        prompt: list[Message] | str,
        chat: ChatOptions = PLAIN_CHAT,
        *,
        special: bool = True,
    ) -> list[int]:
        raise NotImplementedError("nobody counts tokens in the bench")

    async def detokenize(self, model: str, tokens: Sequence[list[int]]) -> list[str]:
        raise NotImplementedError("nobody reads tokens in the bench")

    async def render(self, model: str, messages: list[Message], chat: ChatOptions) -> str:
        raise NotImplementedError("nobody renders in the bench")
