"""Each request leaves one trace: queue, prefill, verify and stream, with counts and no text."""

import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import ClassVar

import pytest
from fake_engine import (
    AGE_SECONDS,
    CACHED_TOKENS,
    METRICS,
    PROMPT_TOKENS,
    FakeEngine,
    FakeGeneration,
)
from litestar.testing import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from wire import CHAT, LOCAL, chat

from mlxspec.api.app import create_app
from mlxspec.config import Config, TracingConfig, read_environment
from mlxspec.engine.request import Usage
from mlxspec.errors import ConfigError
from mlxspec.tracing import Served, Tracing, stages

CALLER = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def client(spans: InMemorySpanExporter) -> Iterator[TestClient]:
    tracing = Tracing(SimpleSpanProcessor(spans))
    app = create_app(FakeEngine(["secret ", "words"]), Config(), tracing=tracing)
    with TestClient(app, base_url=LOCAL) as client:
        yield client


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_leaves_its_stages_one_after_the_other(
    client: TestClient, spans: InMemorySpanExporter, *, stream: bool
) -> None:
    client.post(CHAT, json=chat(stream=stream))
    found = by_name(spans)
    root = found.pop(f"POST {CHAT}")
    assert root.attributes is not None
    assert root.attributes["gen_ai.request.model"] == "demo"
    assert sorted(found) == ["prefill", "queue", "stream", "verify"]
    assert all(span.parent == root.context for span in found.values())
    assert found["queue"].end_time == found["prefill"].start_time
    assert found["prefill"].end_time == found["verify"].start_time == found["stream"].start_time
    assert found["queue"].start_time == pytest.approx(root.end_time - AGE_SECONDS * 1e9, abs=1e9)
    read = {"gen_ai.usage.input_tokens": PROMPT_TOKENS, "mlxspec.cached_tokens": CACHED_TOKENS}
    assert found["prefill"].attributes == read
    speculation = METRICS.speculative_decoding
    assert speculation is not None
    assert found["verify"].attributes == {
        "mlxspec.spec_steps": speculation.num_spec_steps,
        "mlxspec.draft_tokens": speculation.num_draft_tokens,
        "mlxspec.accepted_draft_tokens": speculation.num_accepted_draft_tokens,
    }
    assert found["stream"].attributes == {"gen_ai.usage.output_tokens": 2}
    assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_a_refused_request_is_one_span_that_says_why(
    client: TestClient, spans: InMemorySpanExporter
) -> None:
    client.post(CHAT, json=chat(temperature="hot"))
    [span] = spans.get_finished_spans()
    assert not span.status.is_ok
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 400
    assert "error.type" in span.attributes


def test_the_callers_trace_goes_on(client: TestClient, spans: InMemorySpanExporter) -> None:
    client.post(CHAT, json=chat(), headers={"traceparent": CALLER})
    for span in spans.get_finished_spans():
        assert f"{span.context.trace_id:032x}" in CALLER


def test_polled_routes_leave_no_trace(client: TestClient, spans: InMemorySpanExporter) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        client.get(path)
    assert spans.get_finished_spans() == ()


def test_stages_that_were_not_reached_are_left_out() -> None:
    generation = FakeGeneration(["x"], "stop", None)
    unread = Usage(prompt_tokens=7, completion_tokens=0)
    never = generation.metrics.__struct_fields__
    nothing = type(generation.metrics)(**dict.fromkeys(never))
    assert list(stages(Served(1.0, nothing, unread))) == []


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, "none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "none"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, "none"),
    ],
)
def test_the_standard_variables_turn_it_on(variables: dict[str, str], exporter: str) -> None:
    assert read_environment(variables).get("tracing", {}).get("exporter", "none") == exporter


@pytest.mark.parametrize(
    "variables",
    [{"OTEL_TRACES_EXPORTER": "zipkin"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}],
)
def test_what_is_not_spoken_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(variables))):
        read_environment(variables)


def test_without_the_extra_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ConfigError, match="mlxspec\\[otel\\]"):
        Tracing.of(TracingConfig(exporter="otlp"))
    assert Tracing.of(TracingConfig()) is None


class Collector(BaseHTTPRequestHandler):
    """Takes whatever is posted, and remembers where to."""

    posted: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.posted.append((self.path, gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_collector_gets_the_spans_when_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)  # which the exporter reads
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        config = Config(tracing=TracingConfig(**read_environment(variables)["tracing"]))
        app = create_app(FakeEngine(["x"]), config, tracing=Tracing.of(config.tracing))
        with TestClient(app, base_url=LOCAL) as client:
            client.post(CHAT, json=chat())
        collector.shutdown()
    [(path, body)] = Collector.posted
    assert path == "/v1/traces"
    assert b"prefill" in body
