"""Text completions: prompts in all their forms, echo."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import COMPLETIONS, assert_error, completion, sse_frames, usage


def test_the_answer_has_openais_keys(client: TestClient[Any]) -> None:
    response = client.post(COMPLETIONS, json=completion())
    answer = response.json()
    assert response.status_code == 200
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"]["total_tokens"] == 9
    assert answer["metrics"]["tokens_per_second"] == 200.0


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ("", [""]),
    ],
)
def test_prompts_come_in_four_forms(
    client: TestClient[Any], engine: FakeEngine, prompt: Any, seen: list[Any]
) -> None:
    response = client.post(COMPLETIONS, json=completion(prompt=prompt))
    assert response.status_code == 200
    assert [request.prompt for request in engine.requests] == seen
    assert [choice["index"] for choice in response.json()["choices"]] == list(range(len(seen)))


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], ["a", [1]], [1, [2]], ["a"] * 65])
def test_empty_and_mixed_prompts_are_refused(client: TestClient[Any], prompt: Any) -> None:
    response = client.post(COMPLETIONS, json=completion(prompt=prompt))
    assert_error(response, 400, param="prompt")


@pytest.mark.parametrize("prompt", [[-1], [2**31], [1.5], {"a": 1}, None, [None]])
def test_prompts_of_no_known_form_name_the_field(client: TestClient[Any], prompt: Any) -> None:
    response = client.post(COMPLETIONS, json=completion(prompt=prompt))
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("prompt")


def test_sixteen_tokens_are_the_default(client: TestClient[Any], engine: FakeEngine) -> None:
    client.post(COMPLETIONS, json=completion())
    assert engine.requests[0].max_tokens == 16


def test_several_prompts_have_no_metrics_but_the_sum_of_usage(client: TestClient[Any]) -> None:
    answer = client.post(COMPLETIONS, json=completion(prompt=["a", "b"])).json()
    assert (answer["metrics"], answer["timings"]) == (None, None)
    assert answer["usage"] == usage(14, 4)


def test_echo_puts_the_prompt_before_its_text(client: TestClient[Any]) -> None:
    answer = client.post(COMPLETIONS, json=completion(prompt=["a", "b"], echo=True)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["aHello world", "bHello world"]
    stream = client.post(COMPLETIONS, json=completion(echo=True, stream=True, max_tokens=0)).text
    *frames, _done = sse_frames(stream)
    assert [frame["choices"][0]["text"] for frame in frames] == ["once", ""]


def test_a_refused_sibling_closes_the_generations_before_it(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    submit = engine.submit

    async def refuse_the_second(request: Any) -> Any:
        if engine.generations:
            raise RuntimeError("no second one")
        return await submit(request)

    engine.submit = refuse_the_second  # type: ignore[method-assign]
    response = client.post(COMPLETIONS, json=completion(prompt=["a", "b"]))
    assert_error(response, 500, code="internal_error")
    assert engine.generations[0].closed_while_running


def test_what_follows_the_text_reaches_the_engine(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    for suffix, seen in (("return a", "return a"), (None, ""), ("", "")):
        client.post(COMPLETIONS, json=completion(prompt=["a", "b"], suffix=suffix))
        assert [request.suffix for request in engine.requests[-2:]] == [seen, seen]
