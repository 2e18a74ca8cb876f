"""What a client is told of its prompt's own tokens: which they are, and how likely each was."""

from collections.abc import Callable

from mlxspec.engine.request import Likelihood, PromptToken
from mlxspec.speculative.prompt_scores import PromptScores


class PromptReport:
    """Of one prompt; complete once its request has a token or has ended."""

    def __init__(
        self,
        prompt: list[int],
        num_top: int,
        *,
        bytes_of: Callable[[int], bytes],
        special: frozenset[int],
    ) -> None:
        self.scores = PromptScores(prompt, num_top)
        self._prompt = prompt
        self._bytes_of = bytes_of
        self._special = special

    def tokens(self) -> tuple[PromptToken, ...]:
        """The prompt, token by token."""
        first, *others = self._prompt
        told = [self._token(first, None)]
        for token, score in zip(others, self.scores.scores(), strict=True):
            top = tuple(self._likelihood(*pair) for pair in score.top)
            told.append(self._token(token, score.logprob, score.rank, top))
        return tuple(told)

    def _token(
        self,
        token: int,
        logprob: float | None,
        rank: int | None = None,
        top: tuple[Likelihood, ...] = (),
    ) -> PromptToken:
        is_special = token in self._special
        return PromptToken(token, self._bytes_of(token), is_special, logprob, rank, top)

    def _likelihood(self, token: int, logprob: float) -> Likelihood:
        return Likelihood(token, self._bytes_of(token), logprob)
