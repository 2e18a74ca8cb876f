"""One request's output: from its tokens to the parts that its client is sent."""

from mlxspec.engine.detokenize import Detokenizer, StopStrings
from mlxspec.engine.logprobs import LogprobQueue
from mlxspec.engine.reply import Part, ReplyParser


class Output:
    """Detokenises, ends at stop strings, splits the reply. For one thread at a time."""

    def __init__(
        self,
        *,
        detokenizer: Detokenizer,
        stop: tuple[str, ...],
        stop_tokens: frozenset[int],
        min_tokens: int,
        reply: ReplyParser,
        logprobs: LogprobQueue,
        keeps_stop: bool = False,
    ) -> None:
        """`keeps_stop`: the stop string that ends the output stays in it."""
        self._detokenizer = detokenizer
        self._stop = StopStrings(stop)
        self._stop_tokens = stop_tokens
        self._min_tokens = min_tokens
        self._reply = reply
        self._keeps_stop = keeps_stop
        self.logprobs = logprobs
        self.num_tokens = 0
        self.num_reasoning_tokens = 0

    def push(self, token: int) -> bool:
        """Take a token; returns whether the output ends with it, by a stop string or a call."""
        self.num_tokens += 1
        self.num_reasoning_tokens += self._reply.section == "reasoning"
        text = self._text(token)
        safe, stopped = self._stop.push(text) if self._may_stop() else (self._passed(text), False)
        if stopped and self._keeps_stop:
            safe += self._stop.matched or ""
        if token not in self._stop_tokens:
            self.logprobs.push(token, len(text), len(safe))
        self._reply.push(safe)
        return stopped or self._reply.full

    def finish(self) -> None:
        """No more tokens come: what was held back is certain now."""
        self._reply.push(self._stop.flush())
        if self._stop.matched is None:
            self.logprobs.flush()
        self._reply.finish()

    def take(self) -> list[Part]:
        """The parts since the last time."""
        return self._reply.take()

    @property
    def has_calls(self) -> bool:
        """Whether a tool call is among the parts so far."""
        return self._reply.num_calls > 0

    @property
    def stop(self) -> str | None:
        """The stop string that ended the output, if one did."""
        return self._stop.matched

    def _may_stop(self) -> bool:
        """Stop strings are about the answer: they mean nothing in reasoning."""
        return self.num_tokens > self._min_tokens and self._reply.section != "reasoning"

    def _passed(self, text: str) -> str:
        """The text past the stop strings, behind what they held back before it."""
        return self._stop.flush() + text

    def _text(self, token: int) -> str:
        if token in self._stop_tokens:
            return ""
        return self._detokenizer.push(token, show_hidden=self._reply.section == "tool")
