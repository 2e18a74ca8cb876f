"""Several choices of one request, and how likely their tokens were."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, COMPLETIONS, chat, completion, sse_frames

from mlxspec.engine.request import Delta, Likelihood, TokenLogprobs


def told(text: bytes, logprob: float, offset: int = 0) -> Delta:
    """One token whose alternatives are itself and a broken character."""
    chosen = Likelihood(5, text, logprob)
    logprobs = TokenLogprobs(chosen, (chosen, Likelihood(6, b"\xff", -9.0)), offset)
    return Delta(text=text.decode(), num_tokens=1, logprobs=(logprobs,))


def test_each_choice_has_its_index_and_the_prompt_counts_once(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.scripts = [["a"], ["b", "c"], ["d"]]
    answer = client.post(CHAT, json=chat(n=3)).json()
    texts = [(it["index"], it["message"]["content"]) for it in answer["choices"]]
    assert texts == [(0, "a"), (1, "bc"), (2, "d")]
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 4)
    assert answer["metrics"] is None


def test_choices_are_streamed_with_their_own_index(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.scripts = [["a"], ["b"]]
    response = client.post(CHAT, json=chat(n=2, stream=True))
    texts = ["", ""]
    ends = []
    for frame in sse_frames(response.text)[:-1]:
        [choice] = frame["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        ends += [choice["index"]] if choice["finish_reason"] else []
    assert texts == ["a", "b"]
    assert sorted(ends) == [0, 1]


def test_many_prompts_have_their_choices_one_after_another(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.scripts = [["1"], ["2"], ["3"], ["4"]]
    body = completion(prompt=["a", "b"], n=2, echo=True)
    answer = client.post(COMPLETIONS, json=body).json()
    assert [choice["text"] for choice in answer["choices"]] == ["a1", "a2", "b3", "b4"]
    assert answer["usage"]["prompt_tokens"] == 14


def test_the_best_are_those_with_the_highest_mean_logprob(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.scripts = [
        [told(b"low", -3.0)],
        [told(b"lo", -0.5), told(b"ng", -0.7)],
        [told(b"best", -0.1)],
    ]
    answer = client.post(COMPLETIONS, json=completion(n=2, best_of=3)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["best", "long"]
    assert [choice["logprobs"] for choice in answer["choices"]] == [None, None]
    assert answer["usage"]["completion_tokens"] == 4
    assert [request.sampling.logprobs for request in engine.requests] == [0, 0, 0]


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
    ],
)
def test_logprobs_are_asked_for(
    client: TestClient[Any], engine: FakeEngine, fields: dict[str, Any], asked: int | None
) -> None:
    assert client.post(CHAT, json=chat(**fields)).status_code == 200
    assert engine.requests[0].sampling.logprobs == asked


EXPECTED = {
    "token": "é",
    "logprob": -0.5,
    "bytes": [195, 169],
    "top_logprobs": [
        {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
        {"token": "\ufffd", "logprob": -9.0, "bytes": [255]},
    ],
}


def test_a_chat_has_logprobs_in_openais_form(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = [told("é".encode(), -0.5)]
    fields = {"logprobs": True, "top_logprobs": 2}
    [choice] = client.post(CHAT, json=chat(**fields)).json()["choices"]
    assert choice["logprobs"] == {"content": [EXPECTED], "refusal": None}
    frames = sse_frames(client.post(CHAT, json=chat(stream=True, **fields)).text)[:-1]
    told_in = [frame["choices"][0]["logprobs"] for frame in frames]
    assert told_in == [None, {"content": [EXPECTED], "refusal": None}, None]


def test_a_text_has_logprobs_in_columns(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = [told(b"ab", -0.5), told(b"c", -1.0, offset=2)]
    expected = {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [
            {"ab": -0.5, "bytes:\\xff": -9.0},
            {"c": -1.0, "bytes:\\xff": -9.0},
        ],
        "text_offset": [0, 2],
    }
    [choice] = client.post(COMPLETIONS, json=completion(logprobs=2)).json()["choices"]
    assert choice["logprobs"] == expected
    frames = sse_frames(client.post(COMPLETIONS, json=completion(logprobs=2, stream=True)).text)
    offsets = [frame["choices"][0]["logprobs"]["text_offset"] for frame in frames[:2]]
    assert offsets == [[0], [2]]


def test_the_best_of_none_is_no_choice(client: TestClient[Any], engine: FakeEngine) -> None:
    answer = client.post(COMPLETIONS, json=completion(n=2, best_of=0)).json()
    assert len(answer["choices"]) == len(engine.requests) == 2
