"""From tokens to text, as they come: whole characters only, and never past a stop string."""

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer:
    """Text of one request's output. Hidden tokens have none."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._stream = DecodeStream(skip_special_tokens=False)

    def push(self, token: int, *, show_hidden: bool = False) -> str:
        """Text that is certain after this token; empty inside a multi-byte character."""
        if token in self._hidden and not show_hidden:
            return ""
        return self._stream.step(self._tokenizer, token) or ""


class StopStrings:
    """Holds back text that may be the beginning of a stop string, and cuts at the first one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.matched: str | None = None
        """The stop string that was completed."""

    def push(self, text: str) -> tuple[str, bool]:
        """Take new text; returns text safe to send, and whether a stop string was completed."""
        if not self._stops:
            return text, False
        pending = self._held + text
        found = [(at, stop) for stop in self._stops if (at := pending.find(stop)) >= 0]
        if found:
            self._held = ""
            at, self.matched = min(found)
            return pending[:at], True
        keep = max(_overlap(pending, stop) for stop in self._stops)
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep], False

    def flush(self) -> str:
        """What is still held back when the output ends without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
