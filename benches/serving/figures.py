"""From the answers of one round to its figures, and from rounds to ratios."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from serving.client import Answer
from serving.prompts import Kind

ON: Final = "mlxspec"
OFF: Final = "mlxspec off"
PEER: Final = "mlx_lm"
CONTENDERS: Final = (ON, OFF, PEER)


class Round(Struct, frozen=True, kw_only=True):
    """One contender's answers to one set of prompts, all clients at once, and their figures."""

    answers: list[Answer]
    client_cpu: float
    """Seconds of processor time the load client took, per second of the round."""
    tokens_per_second: float
    """Completion tokens of all clients, by the server's count, from first question to last end."""
    decode_per_second: float
    """The same without reading prompts: each request's tokens behind its first piece, by the time
    from that piece to its end, added up over the requests."""
    ttft_ms: float
    """Median over the requests, from the question sent to the first text."""
    gap_p50_ms: float
    """Between pieces of text, not tokens: an accepted draft arrives as one piece."""
    gap_p99_ms: float
    acceptance_length: float | None
    """Tokens per step that verified drafts; None if no step did."""

    @classmethod
    def of(cls, answers: list[Answer], client_cpu_seconds: float) -> "Round":
        """The figures of a round's answers."""
        seconds = max(a.ended_at for a in answers) - min(a.sent_at for a in answers)
        gaps = [
            1e3 * (b - a) for x in answers for a, b in zip(x.text_at, x.text_at[1:], strict=False)
        ]
        return cls(
            answers=answers,
            client_cpu=client_cpu_seconds / seconds,
            tokens_per_second=sum(a.usage.completion_tokens for a in answers) / seconds,
            decode_per_second=sum(map(_decode_rate, answers)),
            ttft_ms=statistics.median(1e3 * (a.text_at[0] - a.sent_at) for a in answers),
            gap_p50_ms=percentile(gaps, 0.50),
            gap_p99_ms=percentile(gaps, 0.99),
            acceptance_length=_acceptance_length(answers),
        )


class Cell(Struct, frozen=True):
    """One kind of prompt at one number of clients: each contender's rounds, in their order."""

    kind: Kind
    clients: int
    rounds: dict[str, list[Round]]

    def median(self, contender: str, figure: Callable[[Round], float | None]) -> float | None:
        """The median of a figure over the rounds that have it."""
        found = [value for r in self.rounds[contender] if (value := figure(r)) is not None]
        return statistics.median(found) if found else None

    def ratios(self, over: str, under: str, figure: Callable[[Round], float]) -> list[float]:
        """Ratios of a figure, each of two rounds that ran one after the other."""
        pairs = zip(self.rounds[over], self.rounds[under], strict=True)
        return [figure(a) / figure(b) for a, b in pairs]

    def same_text(self, one: str, other: str) -> float:
        """The share of requests that both contenders answered with the same text."""
        pairs = self._pairs(one, other)
        return sum(a.text == b.text for a, b in pairs) / len(pairs)

    def same_text_other_count(self, one: str, other: str) -> int:
        """Requests with one text but two token counts: one of the servers miscounts."""
        pairs = self._pairs(one, other)
        return sum(
            a.text == b.text and a.usage.completion_tokens != b.usage.completion_tokens
            for a, b in pairs
        )

    def _pairs(self, one: str, other: str) -> list[tuple[Answer, Answer]]:
        return [
            pair
            for a, b in zip(self.rounds[one], self.rounds[other], strict=True)
            for pair in zip(a.answers, b.answers, strict=True)
        ]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed; nan if empty."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _decode_rate(answer: Answer) -> float:
    """Tokens per second behind the first piece; nan if nothing came behind it."""
    seconds = answer.ended_at - answer.text_at[0]
    tokens = answer.usage.completion_tokens * (1 - answer.first_share)
    return tokens / seconds if tokens else math.nan


def _acceptance_length(answers: Sequence[Answer]) -> float | None:
    drafted = [a.speculation for a in answers if a.speculation and a.speculation.num_spec_steps]
    if not drafted:
        return None
    accepted = sum(s.num_accepted_draft_tokens for s in drafted)
    return 1 + accepted / sum(s.num_spec_steps for s in drafted)
