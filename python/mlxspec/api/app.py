"""The whole HTTP surface of one engine."""

from litestar import Litestar

from mlxspec.api.access.gate import make_gate
from mlxspec.api.admin.configs import config_routes
from mlxspec.api.admin.groups import groups_routes
from mlxspec.api.admin.health import health_routes
from mlxspec.api.admin.metrics import metrics_route
from mlxspec.api.admin.models import models_admin_routes
from mlxspec.api.admin.optimize import optimize_route
from mlxspec.api.admin.speculation import speculation_route
from mlxspec.api.admin.stats import stats_route
from mlxspec.api.anthropic.messages import messages_routes
from mlxspec.api.drain import Drain
from mlxspec.api.errors import exception_handlers
from mlxspec.api.exchange import ExchangeMiddleware
from mlxspec.api.llamacpp.completion import completion_routes
from mlxspec.api.llamacpp.embedding import embedding_route
from mlxspec.api.llamacpp.props import props_route
from mlxspec.api.llamacpp.tokens import tokens_routes
from mlxspec.api.loop_lag import loop_lag
from mlxspec.api.ollama.routes import ollama_routes
from mlxspec.api.openai.answer import Answerer
from mlxspec.api.openai.batches.service import BatchService
from mlxspec.api.openai.chat import chat_route
from mlxspec.api.openai.completions import completions_route
from mlxspec.api.openai.embeddings import embeddings_route
from mlxspec.api.openai.models import models_routes
from mlxspec.api.openai.responses.routes import responses_routes
from mlxspec.api.openai.responses.store import ResponseStore
from mlxspec.api.openapi.routes import openapi_routes
from mlxspec.api.plain.generate import plain_routes
from mlxspec.api.ports import EngineLike
from mlxspec.api.rerank import rerank_route
from mlxspec.api.synthetic import mark_synthetic
from mlxspec.config import Config, config_folder
from mlxspec.config_store import ConfigStore
from mlxspec.metrics import ServerMetrics
from mlxspec.tracing import Tracing


def create_app(
    engine: EngineLike,
    config: Config,
    *,
    drain: Drain | None = None,
    tracing: Tracing | None = None,
) -> Litestar:
    """Routes, error shapes and lifespan around one engine, which starts and stops with the app.

    `drain` lets whoever handles signals stop the engine before the app ends. `tracing`
    gets the spans of all requests, and is closed with the app.
    """
    forced = config.speculation.synthetic_acceptance
    metrics = ServerMetrics(engine.counters, synthetic=forced is not None)
    keepalive_seconds = config.server.keepalive_seconds
    answerer = Answerer(engine, keepalive_seconds)
    batches = BatchService(engine, config.batches)
    drain = drain or Drain(engine, config.server.drain_seconds)
    app = Litestar(
        route_handlers=[
            chat_route(answerer),
            completions_route(answerer),
            embeddings_route(engine),
            rerank_route(engine),
            *responses_routes(engine, ResponseStore(config.responses), keepalive_seconds),
            *batches.routes(),
            *messages_routes(engine, keepalive_seconds),
            *models_routes(engine),
            *ollama_routes(engine, keepalive_seconds),
            *models_admin_routes(engine, keepalive_seconds),
            stats_route(engine),
            *groups_routes(engine),
            optimize_route(engine),
            *config_routes(engine, ConfigStore(config_folder())),
            *completion_routes(engine, keepalive_seconds),
            embedding_route(engine),
            props_route(engine, config.scheduler.max_running),
            *tokens_routes(engine),
            *plain_routes(engine),
            *health_routes(engine),
            metrics_route(metrics),
            *openapi_routes(),
            speculation_route(engine),
        ],
        lifespan=[drain.lifespan, batches.lifespan, loop_lag(metrics.observe_lag)],
        exception_handlers=exception_handlers(config.server.max_body_bytes),
        request_max_body_size=config.server.max_body_bytes,
        logging_config=None,
        openapi_config=None,
        on_shutdown=[tracing.close] if tracing else [],
    )
    # Litestar's own middleware sits behind its router and never sees unknown routes.
    gate = mark_synthetic(make_gate(app.asgi_handler, config), forced)
    app.asgi_handler = ExchangeMiddleware(gate, metrics, config.limits, tracing)
    return app
