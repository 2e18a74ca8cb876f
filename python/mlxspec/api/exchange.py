"""One HTTP exchange: its id, its log line, and the generations that must not outlive it."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, cast

import structlog
from litestar.connection import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from mlxspec.api.access.key import ApiKey
from mlxspec.api.intake import Intake
from mlxspec.api.ports import GenerationLike
from mlxspec.api.wire import STALLED, Wire
from mlxspec.config import LimitsConfig
from mlxspec.metrics import ServerMetrics
from mlxspec.tracing import Attributes, Served, Tracing

SCOPE_KEY = "mlxspec.exchange"
QUIET_ROUTES = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})
"""Polled every few seconds: logged at debug."""

logger = structlog.get_logger("mlxspec.api")


class Exchange:
    """Holds what one request started and what its log line will say; for one task at a time."""

    def __init__(self, metrics: ServerMetrics, limits: LimitsConfig) -> None:
        self.limits = limits
        self.id = uuid.uuid4().hex
        self.facts: dict[str, Any] = {}
        """Ids, sizes and times for the log line. Never text of a prompt or an answer."""
        self.caller: ApiKey | None = None
        """Whose key it was; None where no key is wanted."""
        self._started = time.perf_counter()
        self._metrics = metrics
        self._generations: list[GenerationLike] = []
        self._served: list[Served] = []

    @property
    def elapsed_seconds(self) -> float:
        """Time since the request came."""
        return time.perf_counter() - self._started

    @classmethod
    def of(cls, request: Request[Any, Any, Any]) -> "Exchange":
        """The exchange that `ExchangeMiddleware` opened for this request."""
        return cast(dict[str, Any], request.scope)[SCOPE_KEY]  # type: ignore[no-any-return]

    def hold(self, generation: GenerationLike) -> None:
        """Promise to close the generation when the exchange ends, however it ends."""
        self._generations.append(generation)

    def release(self) -> None:
        """Close what is held and count its times and tokens; idempotent."""
        generations, self._generations = self._generations, []
        for generation in generations:
            generation.close()
            self._metrics.observe(generation.metrics)
            self._served.append(
                Served(generation.age_seconds, generation.metrics, generation.usage)
            )
        if generations:
            self.facts.update(_token_facts(generations))

    def give_up(self) -> None:
        """The client takes nothing: end what it started."""
        self.facts["error"] = STALLED
        self.release()

    def log(self, scope: Scope, status: int | None, num_bytes: int) -> None:
        """Write the request's one line; `status` None means that no answer was begun."""
        route = scope.get("path_template", "unmatched")
        self._metrics.answered(route, status)
        write = logger.debug if route in QUIET_ROUTES else logger.info
        write(
            "request",
            id=self.id,
            method=scope.get("method"),
            route=route,
            status=status,
            bytes_out=num_bytes,
            duration_ms=round(self.elapsed_seconds * 1e3, 1),
            **self.facts,
        )

    def trace(self, tracing: Tracing, scope: Scope, status: int | None) -> None:
        """Make the request's spans."""
        route, method = scope.get("path_template", "unmatched"), str(scope.get("method"))
        if route in QUIET_ROUTES:
            return
        attributes: Attributes = {
            "http.request.method": method,
            "http.route": route,
            "mlxspec.request_id": self.id,
        }
        if status is not None:
            attributes["http.response.status_code"] = status
        if "error" in self.facts:
            attributes["error.type"] = self.facts["error"]
        if self._served and (model := self.facts.get("model")):
            attributes["gen_ai.request.model"] = model
        name, headers = f"{method} {route}", scope["headers"]
        tracing.record(name, self.elapsed_seconds, attributes, self._served, headers)


def _token_facts(generations: Sequence[GenerationLike]) -> dict[str, Any]:
    """Tokens of all generations; times of the first, which stands for its siblings."""
    usages = [generation.usage for generation in generations]
    metrics = generations[0].metrics
    return {
        "prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        "cached_tokens": sum(usage.cached_tokens for usage in usages),
        "completion_tokens": sum(usage.completion_tokens for usage in usages),
        "ttft_ms": metrics.time_to_first_token_ms,
        "tokens_per_second": metrics.tokens_per_second,
    }


class ExchangeMiddleware:
    """Opens an `Exchange` around every HTTP request and releases it, whatever happens inside.

    A stream's generator may be dropped before its first step (its `finally` then never runs), so
    the promise to close generations is kept here and not only there.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        limits: LimitsConfig,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._limits = limits
        self._intake = Intake(limits.max_held_bytes)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request; adds `X-Request-Id` to the answer. For HTTP scopes only."""
        exchange = Exchange(self._metrics, self._limits)
        cast(dict[str, Any], scope)[SCOPE_KEY] = exchange
        wire = Wire(
            receive,
            send,
            request_id=exchange.id,
            stall_seconds=self._limits.stall_seconds,
            on_stall=exchange.give_up,
        )
        try:
            with self._intake.watch(wire.receive) as watched:
                await self._app(scope, watched, wire.send)
        finally:
            exchange.release()
            exchange.log(scope, wire.status, wire.num_bytes)
            if self._tracing:
                exchange.trace(self._tracing, scope, wire.status)
