"""Logprobs on their way to the client: with the text of their tokens, never ahead of it."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from mlxspec.engine.request import Likelihood, TokenLogprobs

RawLogprobs: TypeAlias = tuple[float, Sequence[tuple[int, float]]]
"""Of a token, and of alternatives by their ids: as the scheduler tells them."""


class LogprobQueue:
    """Logprobs of one request; stays empty for a request that asks for none.

    ```text
    text      certain, sent           held back: may become a stop string
              The answer is 42        \\nEN
    tokens    The| answer| is| 42     |\\n|EN
    logprobs  taken                   wait; dropped if the stop string is completed
    ```
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._raw: deque[RawLogprobs] = deque()
        self._waiting: deque[TokenLogprobs] = deque()
        self._pushed = 0
        self._sent = 0

    def extend(self, logprobs: Sequence[RawLogprobs]) -> None:
        """Take what the scheduler tells, token by token."""
        self._raw.extend(logprobs)

    def push(self, token: int, num_chars: int, num_sent: int) -> None:
        """The next token gave so many characters of text, and so many may now be sent."""
        if self._raw:
            logprob, top = self._raw.popleft()
            alternatives = tuple(self._likelihood(*pair) for pair in top)
            chosen = self._likelihood(token, logprob)
            self._waiting.append(TokenLogprobs(chosen, alternatives, self._pushed))
        self._pushed += num_chars
        self._sent += num_sent

    def flush(self) -> None:
        """The request has ended without a stop string: all its text is sent."""
        self._sent = self._pushed

    def take(self) -> tuple[TokenLogprobs, ...]:
        """Logprobs of the tokens whose text begins in what is sent; each once."""
        taken = []
        all_sent = self._sent == self._pushed
        while self._waiting and (all_sent or self._waiting[0].offset < self._sent):
            taken.append(self._waiting.popleft())
        return tuple(taken)

    def _likelihood(self, token: int, logprob: float) -> Likelihood:
        return Likelihood(token, self._token_bytes(token), logprob)
