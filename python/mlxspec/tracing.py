"""OpenTelemetry: one trace per request, made when it has ended. Off unless asked for.

    POST /v1/chat/completions  |-----------------------------------|
      queue                       |-----|
      prefill                           |-------|
      verify                                    |----------------|
      stream                                    |------------------|

Ids, counts and times: never text of a prompt or an answer, never a key.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from mlxspec.config import TracingConfig
from mlxspec.engine.request import RequestMetrics, Usage
from mlxspec.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span

FLUSH_SECONDS = 3.0
"""Patience with a collector that does not answer when the server ends."""

Attributes = dict[str, str | int | float]


class Served(NamedTuple):
    """One generation of an exchange, and how long ago it was queued."""

    age_seconds: float
    metrics: RequestMetrics
    usage: Usage


class Stage(NamedTuple):
    """Part of a generation; times in seconds since it was queued."""

    name: str
    start: float
    end: float
    attributes: Attributes


class Tracing:
    """Makes spans of ended exchanges, for the event loop's thread; another one sends them."""

    def __init__(self, processor: "SpanProcessor") -> None:
        """`processor` gets the spans; needs the extra `otel`."""
        self._provider = _provider(processor)
        self._tracer = self._provider.get_tracer("mlxspec", version("mlxspec"))

    @classmethod
    def of(cls, config: TracingConfig) -> "Tracing | None":
        """What the configuration asks for; raises as `check_installed`."""
        check_installed(config)
        return None if config.exporter == "none" else cls(_processor(config))

    def record(
        self,
        name: str,
        elapsed_seconds: float,
        attributes: Attributes,
        served: Sequence[Served],
        headers: Iterable[tuple[bytes, bytes]],
    ) -> None:
        """Trace an exchange that ends now; `headers` may name the caller's own trace."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        now = time.time_ns()
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        span = self._tracer.start_span(
            name,
            context=TraceContextTextMapPropagator().extract(named),
            kind=SpanKind.SERVER,
            start_time=now - _ns(elapsed_seconds),
            attributes=attributes,
        )
        _mark_error(span, attributes)
        inside = set_span_in_context(span)
        for one in served:
            queued = now - _ns(one.age_seconds)
            for stage in stages(one):
                start, end = queued + _ns(stage.start), queued + _ns(stage.end)
                child = self._tracer.start_span(stage.name, inside, start_time=start)
                child.set_attributes(stage.attributes)
                child.end(end)
        span.end(now)

    def close(self) -> None:
        """Send what is left, within `FLUSH_SECONDS`; blocks."""
        sending = Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)


def check_installed(config: TracingConfig) -> None:
    """Raise ConfigError if tracing is asked for without the extra `otel`."""
    if config.exporter == "none":
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError:
        raise ConfigError("tracing needs more: pip install 'mlxspec[otel]'") from None


def stages(served: Served) -> Iterator[Stage]:
    """How far a generation came: stages that it never reached are left out."""
    metrics, usage = served.metrics, served.usage
    if metrics.queue_time_ms is None:
        return
    queued = metrics.queue_time_ms / 1e3
    yield Stage("queue", 0.0, queued, {})
    if metrics.time_to_first_token_ms is None:
        return
    first = metrics.time_to_first_token_ms / 1e3
    read: Attributes = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "mlxspec.cached_tokens": usage.cached_tokens,
    }
    yield Stage("prefill", queued, max(queued, first), read)
    gaps = max(0, usage.completion_tokens - 1)
    last = first + gaps * (metrics.mean_itl_ms or 0.0) / 1e3
    yield Stage("verify", first, last, _verified(metrics))
    said: Attributes = {"gen_ai.usage.output_tokens": usage.completion_tokens}
    yield Stage("stream", first, max(first, served.age_seconds), said)


def _verified(metrics: RequestMetrics) -> Attributes:
    found = metrics.speculative_decoding
    if found is None:
        return {}
    return {
        "mlxspec.spec_steps": found.num_spec_steps,
        "mlxspec.draft_tokens": found.num_draft_tokens,
        "mlxspec.accepted_draft_tokens": found.num_accepted_draft_tokens,
    }


def _mark_error(span: "Span", attributes: Attributes) -> None:
    from opentelemetry.trace import Status, StatusCode

    if "error.type" in attributes:
        span.set_status(Status(StatusCode.ERROR))


def _provider(processor: "SpanProcessor") -> "TracerProvider":
    """What the spans' resource says is the user's: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    own = Resource({"service.name": "mlxspec", "service.version": version("mlxspec")})
    provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
    provider.add_span_processor(processor)
    return provider


def _processor(config: TracingConfig) -> "SpanProcessor":
    """Batches, for a collector whose address the exporter itself takes from OTEL_EXPORTER_*."""
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )

    if config.exporter == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter())
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
