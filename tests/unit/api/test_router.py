"""Showing, loading and unloading models over HTTP, in the shapes of llama.cpp's router."""

import json
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.testing import TestClient
from wire import Peer, assert_error

from mlxspec.errors import UnavailableError


def test_all_models_are_shown_with_their_status(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.states = {"demo": "resident", "a": "loading", "b": "absent", "c": "failed"}
    shown = client.get("/models").json()["data"]
    values = {model["id"]: model["status"]["value"] for model in shown}
    assert values == {"demo": "loaded", "a": "loading", "b": "unloaded", "c": "unloaded"}
    assert shown[3]["status"]["failed"] is True
    assert shown[0]["meta"]["memory"] == 2000
    assert client.get("/models/demo").json()["id"] == "demo"
    assert_error(client.get("/models/none"), 404, "model", "model_not_found")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=DEM", ["demo"]),
        ("tag=small", ["demo"]),
        ("type=qwen3", []),
        ("q=o", ["demo", "org/other"]),
    ],
)
def test_models_are_found_by_text_tag_and_type(
    client: TestClient[Any], query: str, found: list[str]
) -> None:
    shown = client.get(f"/models/search?{query}").json()["data"]
    assert [model["id"] for model in shown] == found


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_a_model_is_loaded_and_unloaded(
    client: TestClient[Any], engine: FakeEngine, verb: str
) -> None:
    answer = client.post(f"/models/{verb}", json={"model": "demo"})
    assert (answer.status_code, answer.json()["success"]) == (200, True)
    answer = client.post(f"/models/{verb}", json={"model": "demo", "wait": True}).json()
    assert answer["model"]["status"]["value"] == ("loaded" if verb == "load" else "unloaded")
    assert sum(line.startswith(f"{verb} demo") for line in engine.log) == 2
    assert_error(client.post(f"/models/{verb}", json={"model": "/etc"}), 404, "model")
    assert_error(client.post(f"/models/{verb}", json={}), 400, "model")


def test_a_load_that_fails_is_503_to_who_waits(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.refusal = UnavailableError("no memory became free", retry_after=5)
    response = client.post("/models/load", json={"model": "demo", "wait": True})
    assert assert_error(response, 503) == "no memory became free"
    assert response.headers["retry-after"] == "5"
    assert client.post("/models/load", json={"model": "demo"}).json()["success"]


def test_a_pinned_model_is_not_unloaded(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.pinned = {"demo"}
    response = client.post("/models/unload", json={"model": "demo"})
    assert_error(response, 409, code="model_pinned")


async def test_events_tell_where_models_stand_and_every_change(
    app: Litestar, engine: FakeEngine
) -> None:
    peer = Peer(app, "/models/sse", None)
    engine.states["demo"] = "loading"
    await engine.changes.put(engine.model("demo"))
    peer.on_send = lambda _: peer.leave() if len(told(peer)) == 3 else None
    await peer.run()
    first, _, last = told(peer)
    assert first["event"] == last["event"] == "model_status"
    assert (last["model"], last["data"]["status"]) == ("demo", "loading")


def told(peer: Peer) -> list[Any]:
    """The events so far."""
    frames = [it for it in peer.body.split("\n\n") if it.startswith("data: ")]
    return [json.loads(it.removeprefix("data: ")) for it in frames]


def test_stats_tell_where_memory_has_gone(client: TestClient[Any]) -> None:
    stats = client.get("/stats").json()
    assert stats["memory"]["budget"] == 7
    assert stats["counters"]["steps"] == 111
    assert [model["id"] for model in stats["models"]] == ["demo", "org/other"]
    assert stats["drafters"][0]["num_served"] == 1
