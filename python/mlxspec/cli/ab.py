"""The same requests with speculation on and off: is the text the same, and which comes sooner?

Each request is asked both ways in turn, the order changing from one to the next, so that a machine
that gets slower does so for both. A salt of its own keeps every request from gaining by another.
"""

import secrets
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from msgspec import Struct

Message = dict[str, str]


class Chats(Protocol):
    """What is measured: `Client`."""

    def chat(self, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Chunks of a streamed chat."""
        ...


class Answer(Struct, frozen=True, kw_only=True):
    """One answer as its client saw it; times in seconds from sending the request."""

    text: str
    num_tokens: int
    seconds: float
    seconds_to_first: float
    draft_tokens: int
    accepted_draft_tokens: int


class Pair(Struct, frozen=True, kw_only=True):
    """A request's answers with speculation on and off."""

    prompt: int
    on: Answer
    off: Answer

    @property
    def identical(self) -> bool:
        """Whether the texts are the same."""
        return self.on.text == self.off.text


class Verdict(Struct, frozen=True, kw_only=True):
    """What came of some pairs. Speedups are measured times over measured times; null without any.

    `decode_speedup` leaves out the time to the first token. `different` names the prompts whose
    texts differ.
    """

    pairs: int
    identical: int
    different: list[int]
    tokens: int
    seconds_on: float
    seconds_off: float
    speedup: float | None
    decode_speedup: float | None
    draft_tokens: int
    accepted_draft_tokens: int

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Self:
        """Sums over the pairs."""
        on, off = [pair.on for pair in pairs], [pair.off for pair in pairs]
        return cls(
            pairs=len(pairs),
            identical=sum(pair.identical for pair in pairs),
            different=sorted({pair.prompt for pair in pairs if not pair.identical}),
            tokens=sum(answer.num_tokens for answer in on),
            seconds_on=sum(answer.seconds for answer in on),
            seconds_off=sum(answer.seconds for answer in off),
            speedup=_ratio(sum(it.seconds for it in off), sum(it.seconds for it in on)),
            decode_speedup=_ratio(sum(map(_decoding, off)), sum(map(_decoding, on))),
            draft_tokens=sum(answer.draft_tokens for answer in on),
            accepted_draft_tokens=sum(answer.accepted_draft_tokens for answer in on),
        )


def compare(
    chats: Chats, prompts: Sequence[Sequence[Message]], fields: Mapping[str, Any], rounds: int
) -> Iterator[Pair]:
    """Ask every prompt on and off, `rounds` times, one request at a time.

    `fields`: the model and what else every request says. The first prompt is asked once before,
    unmeasured: a server that has just started is slow once.
    """
    _ask(chats, prompts[0], fields, speculate=True)
    for number in range(rounds * len(prompts)):
        turn, prompt = divmod(number, len(prompts))
        order = [True, False] if (turn + prompt) % 2 else [False, True]
        answers = {it: _ask(chats, prompts[prompt], fields, speculate=it) for it in order}
        yield Pair(prompt=prompt, on=answers[True], off=answers[False])


def _ask(
    chats: Chats, messages: Sequence[Message], fields: Mapping[str, Any], *, speculate: bool
) -> Answer:
    body = {
        **fields,
        "messages": messages,
        "speculative": {"enabled": speculate},
        "cache_salt": secrets.token_hex(8),
        "stream_options": {"include_usage": True},
    }
    begin, first, text, last = time.perf_counter(), None, "", {}
    for chunk in chats.chat(body):
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            first = first or (time.perf_counter() if text else None)
        last = chunk
    end = time.perf_counter()
    drafts = (last.get("metrics") or {}).get("speculative_decoding") or {}
    return Answer(
        text=text,
        num_tokens=last["usage"]["completion_tokens"],
        seconds=end - begin,
        seconds_to_first=(first or end) - begin,
        draft_tokens=drafts.get("num_draft_tokens", 0),
        accepted_draft_tokens=drafts.get("num_accepted_draft_tokens", 0),
    )


def _decoding(answer: Answer) -> float:
    return answer.seconds - answer.seconds_to_first


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None
