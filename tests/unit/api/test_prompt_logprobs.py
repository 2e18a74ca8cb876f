"""Logprobs of prompts: beside the answer's where a prompt is echoed, and in vLLM's field."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, COMPLETIONS, chat, completion

from mlxspec.engine.request import Delta, Likelihood, PromptToken, TokenLogprobs

BEGIN = PromptToken(7, b"<s>", True, None, None, ())
EURO = (
    PromptToken(8, b"\xe2\x82", False, -0.5, 1, (Likelihood(8, b"\xe2\x82", -0.5),)),
    PromptToken(9, b"\xac", False, -3.0, 4, (Likelihood(5, b"a", -0.25),)),
)
END = PromptToken(10, b"!", False, -1.0, 2, (Likelihood(5, b"a", -0.75),))
ANSWER = TokenLogprobs(Likelihood(11, b"ok", -0.125), (Likelihood(11, b"ok", -0.125),), 0)


@pytest.fixture
def scored(engine: FakeEngine) -> FakeEngine:
    """An engine that says `ok`, and how likely the prompt was."""
    engine.prompt = (BEGIN, *EURO, END)
    engine.script = [Delta(text="ok", num_tokens=1, logprobs=(ANSWER,))]
    return engine


def test_an_echoed_prompts_logprobs_come_before_those_of_the_answer(
    client: TestClient[Any], scored: FakeEngine
) -> None:
    body = completion(prompt="€!", echo=True, logprobs=1)
    [choice] = client.post(COMPLETIONS, json=body).json()["choices"]
    assert choice["text"] == "€!ok"
    assert choice["logprobs"] == {
        "tokens": ["<s>", "bytes:\\xe2\\x82", "bytes:\\xac", "!", "ok"],
        "token_logprobs": [None, -0.5, -3.0, -1.0, -0.125],
        "top_logprobs": [
            None,
            {"bytes:\\xe2\\x82": -0.5},
            {"a": -0.25, "bytes:\\xac": -3.0},
            {"a": -0.75, "!": -1.0},
            {"ok": -0.125},
        ],
        "text_offset": [0, 0, 0, 1, 2],
    }
    assert scored.requests[0].prompt_logprobs == 1
    assert "prompt_logprobs" not in choice


def test_without_alternatives_there_are_none(client: TestClient[Any], scored: FakeEngine) -> None:
    body = completion(prompt="€!", echo=True, logprobs=0)
    [choice] = client.post(COMPLETIONS, json=body).json()["choices"]
    assert choice["logprobs"]["top_logprobs"][:4] == [None, {}, {}, {}]
    assert scored.requests[0].prompt_logprobs == 0


def test_with_no_tokens_asked_for_the_prompt_is_read_and_nothing_generated(
    client: TestClient[Any], scored: FakeEngine
) -> None:
    scored.script, scored.finish = [], "length"
    body = completion(prompt="€!", echo=True, logprobs=1, max_tokens=0)
    [choice] = client.post(COMPLETIONS, json=body).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("€!", "length")
    assert len(choice["logprobs"]["tokens"]) == 4
    assert scored.requests[0].max_tokens == 0
    assert not scored.generations[0].closed_while_running


def test_echoed_ids_are_spelled(client: TestClient[Any], scored: FakeEngine) -> None:
    body = completion(prompt=[[7, 8, 9, 10], [7, 8, 9, 10]], echo=True)
    choices = client.post(COMPLETIONS, json=body).json()["choices"]
    assert [it["text"] for it in choices] == ["<s>€!ok"] * 2
    assert [it["logprobs"] for it in choices] == [None, None]
    body = completion(prompt=[7, 8, 9, 10], echo=True, logprobs=0)
    [choice] = client.post(COMPLETIONS, json=body).json()["choices"]
    assert choice["logprobs"]["text_offset"] == [0, 3, 3, 4, 5]


VLLMS = [
    None,
    {"8": {"logprob": -0.5, "rank": 1, "decoded_token": "bytes:\\xe2\\x82"}},
    {
        "9": {"logprob": -3.0, "rank": 4, "decoded_token": "bytes:\\xac"},
        "5": {"logprob": -0.25, "rank": 1, "decoded_token": "a"},
    },
    {
        "10": {"logprob": -1.0, "rank": 2, "decoded_token": "!"},
        "5": {"logprob": -0.75, "rank": 1, "decoded_token": "a"},
    },
]


def test_vllms_field_tells_ranks_by_id(client: TestClient[Any], scored: FakeEngine) -> None:
    text = client.post(COMPLETIONS, json=completion(prompt_logprobs=1)).json()
    assert text["choices"][0]["prompt_logprobs"] == VLLMS
    assert text["choices"][0]["logprobs"] is None
    said = client.post(CHAT, json=chat(prompt_logprobs=1)).json()
    assert said["prompt_logprobs"] == VLLMS
    assert [request.prompt_logprobs for request in scored.requests] == [1, 1]
    none = client.post(CHAT, json=chat(prompt_logprobs=0)).json()["prompt_logprobs"]
    assert none[2] == {"9": VLLMS[2]["9"]}  # type: ignore[index]


def test_the_larger_of_both_wishes_is_asked_of_the_engine(
    client: TestClient[Any], scored: FakeEngine
) -> None:
    body = completion(prompt="€!", echo=True, logprobs=0, prompt_logprobs=1)
    [choice] = client.post(COMPLETIONS, json=body).json()["choices"]
    assert scored.requests[0].prompt_logprobs == 1
    assert choice["prompt_logprobs"] == VLLMS
    assert choice["logprobs"]["top_logprobs"][2] == {}


def test_nobody_else_is_told(client: TestClient[Any], scored: FakeEngine) -> None:
    answer = client.post(COMPLETIONS, json=completion(logprobs=1)).json()["choices"][0]
    assert len(answer["logprobs"]["tokens"]) == 1
    assert "prompt_logprobs" not in client.post(CHAT, json=chat()).json()
    assert [request.prompt_logprobs for request in scored.requests] == [None, None]
