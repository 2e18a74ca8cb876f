"""Who goes first and how far is drafted: each dialect's words reach the engine, and are echoed."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, COMPLETIONS, assert_error, chat, completion, sse_frames

RESPONSES = "/v1/responses"


@pytest.mark.parametrize(
    ("fields", "level", "told"),
    [
        ({}, 0, None),
        ({"service_tier": None}, 0, None),
        ({"service_tier": "auto"}, 0, "default"),
        ({"service_tier": "scale"}, 0, "default"),
        ({"service_tier": "flex"}, 6, "flex"),
        ({"service_tier": "priority"}, -6, "priority"),
        ({"service_tier": "fast"}, -6, "priority"),
        ({"priority": 3}, 3, None),
        ({"priority": 0, "service_tier": "flex"}, 0, "flex"),
    ],
)
def test_tiers_and_priorities_are_levels(
    client: TestClient[Any], engine: FakeEngine, fields: Any, level: int, told: str | None
) -> None:
    bodies = [(CHAT, chat(**fields)), (COMPLETIONS, completion(**fields))]
    if "priority" not in fields:
        bodies.append((RESPONSES, {"model": "demo", "input": "hi", **fields}))
    for path, body in bodies:
        assert client.post(path, json=body).json().get("service_tier") == told
    assert [request.priority for request in engine.requests] == [level] * len(bodies)


def test_every_chunk_tells_the_tier(client: TestClient[Any]) -> None:
    text = client.post(CHAT, json=chat(stream=True, service_tier="flex")).text
    assert {frame["service_tier"] for frame in sse_frames(text)[:-1]} == {"flex"}


@pytest.mark.parametrize(
    ("wish", "drafts"),
    [
        ({}, (True, None)),
        ({"enabled": False}, (False, None)),
        ({"num_speculative_tokens": 0}, (False, None)),
        ({"num_speculative_tokens": 3}, (True, 3)),
        ({"enabled": False, "num_speculative_tokens": 3}, (False, None)),
    ],
)
def test_drafts_can_be_bounded(
    client: TestClient[Any], engine: FakeEngine, wish: Any, drafts: Any
) -> None:
    client.post(CHAT, json=chat(speculative=wish))
    [asked] = engine.requests
    assert (asked.speculative, asked.max_draft) == drafts


@pytest.mark.parametrize(("wish", "drafts"), [(0, (False, None)), (4, (True, 4))])
def test_ollamas_option_bounds_drafts(
    client: TestClient[Any], engine: FakeEngine, wish: int, drafts: Any
) -> None:
    client.post("/api/chat", json=chat(options={"draft_num_predict": wish}))
    [asked] = engine.requests
    assert (asked.speculative, asked.max_draft) == drafts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"priority": 1001}, "priority"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"speculative": {"num_speculative_tokens": -1}}, "speculative.num_speculative_tokens"),
    ],
)
def test_what_makes_no_sense_is_named(client: TestClient[Any], fields: Any, param: str) -> None:
    assert_error(client.post(CHAT, json=chat(**fields)), 400, param)
