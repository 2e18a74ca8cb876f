"""Predicted Outputs: the client says what it expects, and hears what of it was right."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, assert_error, chat, sse_frames, usage

PARTS = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "world"}]


@pytest.mark.parametrize("content", ["Hello world", PARTS], ids=["text", "parts"])
def test_a_prediction_reaches_the_engine_as_one_text(
    client: TestClient[Any], engine: FakeEngine, content: Any
) -> None:
    body = chat(prediction={"type": "content", "content": content})
    assert client.post(CHAT, json=body).status_code == 200
    assert engine.requests[0].prediction == "Hello world"


@pytest.mark.parametrize("body", [chat(), chat(prediction=None)])
def test_without_one_nothing_is_predicted(
    client: TestClient[Any], engine: FakeEngine, body: Any
) -> None:
    assert client.post(CHAT, json=body).json()["usage"] == usage(7, 2)
    assert engine.requests[0].prediction == ""


def test_usage_says_what_of_it_was_accepted_and_rejected(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.predicted = (5, 3)
    predicted = {"prediction": {"type": "content", "content": "Hello world"}}
    expected = usage(7, 2, accepted=5, rejected=3)
    assert client.post(CHAT, json=chat(**predicted)).json()["usage"] == expected
    streamed = chat(**predicted, stream=True, stream_options={"include_usage": True})
    *_, last, _done = sse_frames(client.post(CHAT, json=streamed).text)
    assert last["usage"] == expected


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ({"type": "content", "content": [{"type": "image_url"}]}, "prediction.content[0]"),
        ({"type": "guess", "content": "x"}, "prediction.type"),
        ({"type": "content"}, "prediction.content"),
        ("Hello", "prediction"),
    ],
)
def test_what_is_no_prediction_is_refused_by_name(
    client: TestClient[Any], prediction: Any, param: str
) -> None:
    assert_error(client.post(CHAT, json=chat(prediction=prediction)), 400, param)
