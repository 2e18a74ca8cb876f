"""A server that forces acceptance marks whatever it says."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from structlog.testing import capture_logs
from wire import CHAT, LOCAL, chat

from mlxspec.api.app import create_app
from mlxspec.api.synthetic import HEADER
from mlxspec.config import Config, SpeculationConfig
from mlxspec.server import warn_of_synthetic

FORCED = Config(speculation=SpeculationConfig(synthetic_acceptance=0.7))
PATHS = ["/metrics", "/version", "/v1/models", "/nowhere"]


def test_every_answer_has_the_rate_in_a_header(engine: FakeEngine) -> None:
    with TestClient(create_app(engine, FORCED), LOCAL) as client:
        answers = [client.get(path) for path in PATHS]
        answers += [client.post(CHAT, json=chat(stream=stream)) for stream in (False, True)]
    assert [answer.headers[HEADER] for answer in answers] == ["0.7"] * len(answers)


def test_no_metric_passes_for_a_real_one(engine: FakeEngine) -> None:
    with TestClient(create_app(engine, FORCED), LOCAL) as client:
        text = client.get("/metrics").text
    assert "mlxspec:" not in text
    assert "\nmlxspec_synthetic:spec_decode_num_accepted_tokens_total" in text


@pytest.mark.parametrize("path", PATHS)
def test_nobody_else_is_marked(client: TestClient[Any], path: str) -> None:
    answer = client.get(path)
    assert HEADER not in answer.headers
    assert "synthetic:" not in answer.text


def test_the_server_warns_at_its_start() -> None:
    with capture_logs() as lines:
        warn_of_synthetic(Config())
        warn_of_synthetic(FORCED)
    assert [(it["log_level"], it["synthetic_acceptance"]) for it in lines] == [("warning", 0.7)]
