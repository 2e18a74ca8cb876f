"""The comparison of speculation on and off: fair in its order, honest in its verdict."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlxspec.cli import ab, bench_prompts
from mlxspec.cli.ab import Verdict, compare
from mlxspec.errors import ConfigError

PROMPTS = [[{"role": "user", "content": name}] for name in "abc"]


class FakeChats:
    """Answers with the prompt in capitals: in 4 s, or 1 s with speculation; `wrong` ones differ."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong
        self.bodies: list[Mapping[str, Any]] = []
        self.now = 100.0

    def chat(self, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        self.bodies.append(body)
        speculate = body["speculative"]["enabled"]
        text = body["messages"][0]["content"]
        yield {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
        self.now += 0.5
        yield {"choices": [{"delta": {"content": text.upper()}}]}
        self.now += 0.5 if speculate else 3.5
        if speculate and text in self.wrong:
            yield {"choices": [{"delta": {"content": "!"}}]}
        drafts = {"num_draft_tokens": 6, "num_accepted_draft_tokens": 4} if speculate else None
        usage = {"completion_tokens": 9}
        yield {"choices": [], "usage": usage, "metrics": {"speculative_decoding": drafts}}


@pytest.fixture
def chats(monkeypatch: pytest.MonkeyPatch) -> FakeChats:
    fake = FakeChats()
    monkeypatch.setattr(ab.time, "perf_counter", lambda: fake.now)
    return fake


def test_both_ways_are_asked_in_turns_of_changing_order(chats: FakeChats) -> None:
    pairs = list(compare(chats, PROMPTS, {"model": "demo", "seed": 3}, rounds=2))
    assert [pair.prompt for pair in pairs] == [0, 1, 2, 0, 1, 2]
    warm, *asked = [body["speculative"]["enabled"] for body in chats.bodies]
    assert warm
    turns = [tuple(asked[at : at + 2]) for at in range(0, len(asked), 2)]
    assert {turns[0], turns[1]} == {(True, False), (False, True)}
    assert all(turns[at] != turns[at + 3] for at in range(3)), "each prompt in both orders"
    assert all(body["seed"] == 3 for body in chats.bodies)
    assert len({body["cache_salt"] for body in chats.bodies}) == len(chats.bodies)


def test_speedups_are_times_over_times(chats: FakeChats) -> None:
    verdict = Verdict.of(list(compare(chats, PROMPTS, {}, rounds=1)))
    assert (verdict.seconds_off, verdict.seconds_on) == (12.0, 3.0)
    assert verdict.speedup == 4.0
    assert verdict.decode_speedup == 7.0
    assert (verdict.pairs, verdict.identical, verdict.different) == (3, 3, [])
    assert (verdict.tokens, verdict.draft_tokens, verdict.accepted_draft_tokens) == (27, 18, 12)


def test_texts_that_differ_are_named(chats: FakeChats) -> None:
    chats.wrong = "b"
    verdict = Verdict.of(list(compare(chats, PROMPTS, {}, rounds=2)))
    assert (verdict.pairs, verdict.identical, verdict.different) == (6, 4, [1])


def test_a_file_has_prompts_or_messages_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"messages": [{"role": "user", "content": "b"}]}\n')
    assert bench_prompts.read(file) == PROMPTS[:2]


@pytest.mark.parametrize("text", ["", "{", '{"text": "a"}', "[1]", '"a"', '{"messages": 3}'])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"prompts\.jsonl"):
        bench_prompts.read(file)


def test_the_built_in_prompts_are_chats() -> None:
    assert all(messages[0]["role"] == "user" for messages in bench_prompts.built_in())
