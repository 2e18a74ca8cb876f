"""Prometheus text: the scheduler's counters, read when scraped, and two times of each request."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from mlxspec.engine.request import RequestMetrics

TTFT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
ITL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)

COUNTERS = {
    "requests_submitted": "Requests handed to the scheduler.",
    "requests_finished": "Requests that ended by themselves.",
    "requests_aborted": "Requests ended early by the client or the server.",
    "requests_expired": "Requests that waited longer than the queue's deadline.",
    "requests_failed": "Requests lost to a failed step or load.",
    "requests_rejected": "Requests refused because the queue was full or the server draining.",
    "preemptions": "Running requests put back to make room.",
    "model_loads": "Loads of models begun.",
    "model_load_errors": "Loads of models that failed.",
    "model_evictions": "Models evicted.",
    "drafter_loads": "Loads of draft models begun.",
    "drafter_evictions": "Draft models evicted.",
    "memory_trims": "Times freed memory was given back because memory was short.",
    "memory_refusals": "Requests refused before their first token because memory was short.",
    "steps": "Forward passes over a batch.",
    "step_errors": "Steps that failed on the device.",
    "late_aborts": "Aborts that found their request already ended.",
    "integrity_errors": "Times the idle check found the scheduler's books not in order.",
    "suffix_file_errors": "Times remembered answers could not be written to --suffix-dir.",
    "kv_file_tokens": "Prompt tokens whose KV was read from --kv-dir.",
    "kv_files_dropped": "Files in --kv-dir that were torn, foreign or gone, and are removed.",
    "kv_file_errors": "Times --kv-dir could not be written; one, and it is written no more.",
    "wake_errors": "Wake-ups of the event loop that failed.",
    "prompt_tokens": "Prompt tokens of submitted requests.",
    "cached_tokens": "Prompt tokens that were found in the prefix cache.",
    "prefix_evictions": "Cached prefixes given up for want of blocks.",
    "generated_tokens": "Tokens generated.",
    "num_drafts": "Drafts verified.",
    "num_draft_tokens": "Draft tokens verified.",
    "num_accepted_tokens": "Draft tokens kept by verification.",
}
"""Cumulative counters: attribute of `CountersLike` to help text."""

GAUGES = {
    "memory_permille": "What the process holds of what it may, in thousandths.",
    "memory_shortage": "0, 1 above the soft watermark, 2 above the hard one.",
    "requests_waiting": "Requests queued and not yet running.",
    "requests_running": "Requests in the batch.",
    "models_resident": "Models in memory.",
    "model_bytes": "Bytes that models hold, KV memory and reservations included.",
    "kv_blocks_total": "Blocks of the KV pool.",
    "kv_blocks_used": "Blocks of the KV pool in use.",
    "kv_file_bytes": "Bytes of KV in --kv-dir.",
    "kv_blocks_cached": "Those of them that hold cached prefixes, and are free to who needs them.",
}

SPECULATION = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
"""Exported under the names load generators look for: `spec_decode_` and the attribute."""


class CountersLike(Protocol):
    """The scheduler's counters at one moment: also an int for every name in COUNTERS and GAUGES."""

    @property
    def drafted_per_pos(self) -> Sequence[int]:
        """How often a draft token at each position was verified."""
        ...

    @property
    def accepted_per_pos(self) -> Sequence[int]:
        """How often the draft token at each position was kept."""
        ...

    @property
    def drafters(self) -> Sequence[tuple[str, int, int]]:
        """Each drafter's name, draft tokens verified and kept."""
        ...


class SchedulerCollector(Collector):
    """Turns the scheduler's counters into metric families at the moment of the scrape."""

    def __init__(self, counters: Callable[[], CountersLike]) -> None:
        self._counters = counters

    def describe(self) -> Iterator[Metric]:
        """Name nothing in advance: the engine need not have started when we register."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family per counter and gauge, then drafts by position and by drafter."""
        counters = self._counters()
        for name, text in COUNTERS.items():
            prefix = "spec_decode_" if name in SPECULATION else ""
            yield CounterMetricFamily(f"mlxspec:{prefix}{name}", text, getattr(counters, name))
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"mlxspec:{name}", text, getattr(counters, name))
        yield _per_pos("draft", "verified", counters.drafted_per_pos)
        yield _per_pos("accepted", "kept by verification", counters.accepted_per_pos)
        yield from _by_drafter(counters.drafters)


def _per_pos(which: str, done: str, counts: Sequence[int]) -> Metric:
    family = CounterMetricFamily(
        f"mlxspec:spec_decode_num_{which}_tokens_per_pos",
        f"Draft tokens {done}, by position in the draft.",
        labels=["position"],
    )
    for position, count in enumerate(counts):
        family.add_metric([str(position)], count)
    return family


def _by_drafter(drafters: Sequence[tuple[str, int, int]]) -> Iterator[Metric]:
    prefix = "mlxspec:spec_decode_drafter"
    proposed = CounterMetricFamily(
        f"{prefix}_tokens_proposed", "Draft tokens verified, by who drafted.", labels=["drafter"]
    )
    accepted = CounterMetricFamily(
        f"{prefix}_tokens_accepted", "Draft tokens kept, by who drafted.", labels=["drafter"]
    )
    for name, num_proposed, num_accepted in drafters:
        proposed.add_metric([name], num_proposed)
        accepted.add_metric([name], num_accepted)
    yield proposed
    yield accepted


class ServerMetrics:
    """The server's own registry: nothing of the process-wide one, so that two apps can coexist.

    For the event loop's thread. `synthetic`: acceptance is forced, and every name says so.
    """

    def __init__(self, counters: Callable[[], CountersLike], *, synthetic: bool = False) -> None:
        self._synthetic = synthetic
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(SchedulerCollector(counters))
        ProcessCollector(registry=self._registry)  # memory, files, time; on Linux
        self._requests = Counter(
            "mlxspec:http_requests",
            "HTTP requests answered, by route and status.",
            ["route", "status"],
            registry=self._registry,
        )
        self._lag = Histogram(
            "mlxspec:event_loop_lag_seconds",
            "How much later than asked the event loop woke a sleeper.",
            registry=self._registry,
            buckets=LAG_SECONDS,
        )
        self._queue = Histogram(
            "mlxspec:queue_time_seconds",
            "Seconds from queueing, once tokenised, to the first step.",
            registry=self._registry,
            buckets=TTFT_SECONDS,
        )
        self._ttft = Histogram(
            "mlxspec:time_to_first_token_seconds",
            "Seconds from queueing, once tokenised, to the first token.",
            registry=self._registry,
            buckets=TTFT_SECONDS,
        )
        self._itl = Histogram(
            "mlxspec:inter_token_latency_seconds",
            "Mean seconds between the tokens of one request.",
            registry=self._registry,
            buckets=ITL_SECONDS,
        )

    def observe(self, request: RequestMetrics) -> None:
        """Count the times of one ended request; times it never reached are left out."""
        if request.queue_time_ms is not None:
            self._queue.observe(request.queue_time_ms / 1e3)
        if request.time_to_first_token_ms is not None:
            self._ttft.observe(request.time_to_first_token_ms / 1e3)
        if request.mean_itl_ms is not None:
            self._itl.observe(request.mean_itl_ms / 1e3)

    def answered(self, route: str, status: int | None) -> None:
        """Count one HTTP exchange; None: the client left before an answer."""
        self._requests.labels(route, "none" if status is None else str(status)).inc()

    def observe_lag(self, seconds: float) -> None:
        """Count one sample of the event loop's lateness."""
        self._lag.observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """The exposition in Prometheus' text format, and its content type."""
        text = generate_latest(self._registry)
        if self._synthetic:
            text = text.replace(b"mlxspec:", b"mlxspec_synthetic:")
        return text, CONTENT_TYPE_PLAIN_0_0_4
