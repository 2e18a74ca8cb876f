"""`max_tokens: 0`: the prompt is checked and counted, nothing is generated."""

from collections.abc import AsyncIterator

import msgspec

from mlxspec.api.ports import GenerationLike
from mlxspec.engine.request import Delta, PromptToken, RequestMetrics, Usage

NO_TIMES = RequestMetrics(
    time_to_first_token_ms=None,
    queue_time_ms=None,
    mean_itl_ms=None,
    tokens_per_second=None,
    speculative_decoding=None,
)


class NoTokens:
    """Stands for a generation that the engine accepted and that was aborted at once."""

    def __init__(self, accepted: GenerationLike) -> None:
        accepted.close()
        self._accepted = accepted

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """One empty delta: the length asked for is reached."""
        yield Delta(text="", num_tokens=0, finish_reason="length")

    def close(self) -> None:
        """Nothing runs any more."""

    @property
    def age_seconds(self) -> float:
        """Time since the engine accepted it."""
        return self._accepted.age_seconds

    @property
    def usage(self) -> Usage:
        """The prompt's tokens and no others."""
        return msgspec.structs.replace(self._accepted.usage, completion_tokens=0)

    @property
    def prompt_tokens(self) -> tuple[PromptToken, ...]:
        """Nobody asked."""
        return ()

    @property
    def metrics(self) -> RequestMetrics:
        """No token, no times."""
        return NO_TIMES
