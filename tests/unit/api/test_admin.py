"""Models, health, version, metrics, and the app's life."""

from typing import Any

import pytest
from fake_engine import FakeCounters, FakeEngine
from litestar.testing import TestClient
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from wire import CHAT, LOCAL, assert_error, chat

from mlxspec import __version__
from mlxspec.api.app import create_app
from mlxspec.config import Config, ServerConfig
from mlxspec.metrics import COUNTERS, GAUGES, SPECULATION


def samples(client: TestClient[Any]) -> dict[str, float]:
    """Every sample of a scrape: `name{label=value}` to its value."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + (str(sample.labels) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_models_are_listed(client: TestClient[Any]) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == ["demo", "org/other"]
    assert answer["data"][0] == {
        "id": "demo",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "mlxspec",
        "state": "resident",
        "context_length": 4096,
    }


@pytest.mark.parametrize("model", ["demo", "org/other"])
def test_a_model_is_found_by_an_id_with_or_without_slashes(
    client: TestClient[Any], model: str
) -> None:
    assert client.get(f"/v1/models/{model}").json()["id"] == model


def test_an_unknown_model_is_404(client: TestClient[Any]) -> None:
    response = client.get("/v1/models/org/nothing")
    assert "org/nothing" in assert_error(response, 404, "model", "model_not_found")


def test_health_follows_the_engine(client: TestClient[Any], engine: FakeEngine) -> None:
    for path in ("/health", "/health/ready", "/health/live"):
        assert client.get(path).status_code == 200
    engine.is_ready = False
    engine.states["demo"] = "loading"
    for path in ("/health", "/health/ready"):
        response = client.get(path)
        assert assert_error(response, 503) == "not ready: demo is loading"
        assert response.headers["retry-after"] == "1"
    assert client.get("/health/live").status_code == 200
    engine.states["demo"] = "resident"
    engine.is_stuck = True
    assert "hangs" in assert_error(client.get("/health/live"), 503)
    assert "hangs" in assert_error(client.get("/health/ready"), 503)
    engine.is_stuck = False
    assert "draining" in assert_error(client.get("/health"), 503)
    engine.is_alive = False
    assert_error(client.get("/health/live"), 503)
    assert "has ended" in assert_error(client.get("/health"), 503)


def test_the_version_is_told(client: TestClient[Any]) -> None:
    assert client.get("/version").json() == {"version": __version__}


def test_the_load_is_what_runs_and_waits_for_all_models(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    [demo, other] = engine.models()
    busy = [replace(demo, num_running=2), replace(other, num_running=1, num_waiting=4)]
    engine.models = lambda: busy  # type: ignore[method-assign]
    assert client.get("/load").json() == {"server_load": 7}


def test_every_counter_is_exported_under_its_own_name(client: TestClient[Any]) -> None:
    seen = samples(client)
    counters = FakeCounters()
    for name in COUNTERS:
        prefix = "spec_decode_" if name in SPECULATION else ""
        assert seen[f"mlxspec:{prefix}{name}_total"] == getattr(counters, name)
    for name in GAUGES:
        assert seen[f"mlxspec:{name}"] == getattr(counters, name)
    per_pos = "mlxspec:spec_decode_num_accepted_tokens_per_pos_total"
    assert seen[per_pos + "{'position': '0'}"] == 118
    assert seen[per_pos + "{'position': '1'}"] == 119
    per_pos = "mlxspec:spec_decode_num_draft_tokens_per_pos_total"
    assert seen[per_pos + "{'position': '1'}"] == 129
    drafter = "mlxspec:spec_decode_drafter_tokens"
    assert seen[drafter + "_proposed_total{'drafter': 'suffix'}"] == 122
    assert seen[drafter + "_accepted_total{'drafter': 'prediction'}"] == 125


def test_each_request_is_observed_once(client: TestClient[Any]) -> None:
    client.post(CHAT, json=chat())
    client.post(CHAT, json=chat(stream=True))
    client.post(CHAT, json=chat(n=0))
    seen = samples(client)
    assert seen["mlxspec:time_to_first_token_seconds_count"] == 2
    assert seen["mlxspec:time_to_first_token_seconds_sum"] == pytest.approx(0.024)
    assert seen["mlxspec:inter_token_latency_seconds_sum"] == pytest.approx(0.010)


def test_logs_have_ids_and_sizes_but_no_text(client: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = ["canary-answer"]
    messages = [{"role": "user", "content": "canary-prompt"}]
    with capture_logs() as lines:
        whole = client.post(CHAT, json=chat(messages=messages))
        client.post(CHAT, json=chat(messages=messages, stream=True))
        client.post(CHAT, json=chat(messages=messages, n=0))
        client.post(CHAT, content=b'{"canary": ')
        client.get("/canary")
    assert [line["status"] for line in lines] == [200, 200, 400, 400, 404]
    assert lines[0]["id"] == whole.headers["x-request-id"]
    assert lines[0]["prompt_tokens"] == 7
    assert lines[0]["bytes_out"] == len(whole.content)
    assert lines[2]["error"] == "invalid_request"
    assert "canary" not in str(lines)


def test_polling_is_logged_at_debug_only(client: TestClient[Any]) -> None:
    with capture_logs() as lines:
        client.get("/health/ready")
        client.get("/metrics")
        client.get("/version")
    assert [line["log_level"] for line in lines] == ["debug", "debug", "info"]


def test_the_engine_lives_as_long_as_the_app(engine: FakeEngine) -> None:
    config = Config(server=ServerConfig(drain_seconds=3.0))
    with TestClient(create_app(engine, config), LOCAL):
        assert engine.log == ["start"]
    assert engine.log == ["start", "stop after 3.0"]
