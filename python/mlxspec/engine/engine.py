"""The engine as the API sees it: submit a request, get a stream of text.

Three threads meet here: the event loop (everything public), the engine thread (Rust's loop, which
calls the runner), and worker threads that render and tokenise prompts. News from the engine thread
arrives through one file descriptor per event loop, once per step.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from typing import Final, NamedTuple

import mlx.core as mx
import structlog
from msgspec.structs import replace

from mlxspec import _scheduler
from mlxspec.config import Config
from mlxspec.engine.admission import Admission, bounds_of
from mlxspec.engine.advice import Advice, Seen, advise
from mlxspec.engine.catalog import Catalog, ServedModel, Status
from mlxspec.engine.counters import Counters
from mlxspec.engine.deadlines import Deadlines
from mlxspec.engine.embedding import TextReading, most_under_way, read_all, shaped
from mlxspec.engine.generation import LOADING_RETRY_SECONDS, End, Generation
from mlxspec.engine.memory import plan_memory
from mlxspec.engine.model_events import ModelEvents
from mlxspec.engine.request import (
    PLAIN_CHAT,
    ChatOptions,
    DrafterCard,
    Embedded,
    EmbeddingRequest,
    GenerationRequest,
    GroupCard,
    MemoryUse,
    Message,
    ModelCard,
    ReadRequest,
    Reranked,
    RerankRequest,
)
from mlxspec.engine.rerank import both_sides, cosines, probability
from mlxspec.engine.runner import Runner
from mlxspec.engine.sampling import TokenSampling, seeded_copies, stop_tokens, token_sampling
from mlxspec.engine.speculation import SpeculationReport
from mlxspec.engine.tokenizer import Tokenizer
from mlxspec.errors import (
    BadRequestError,
    ContextLengthError,
    MlxspecError,
    ModelPinnedError,
    UnavailableError,
)
from mlxspec.model.backend import backend_facts
from mlxspec.model.footprint import process_bytes
from mlxspec.model.store import describe
from mlxspec.model_tables import check_references
from mlxspec.speculative.constrain import Constraint
from mlxspec.speculative.pooling import Floats, Pooled, Pooling

log = structlog.get_logger()

LEAVING: Final = frozenset({"resident", "draining", "evicting"})
UNLOAD_CHECK_SECONDS = 1.0
JOIN_SECONDS = 5.0
"""Patience with a step, or a load, that is under way when everything else has ended."""


class Encoded(NamedTuple):
    """A request's texts as tokens."""

    prompt: list[int]
    prediction: list[int]


class Engine:
    """All models, one engine thread. Make it, `start` it, `submit` requests, `stop` it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._catalog = Catalog(config)
        self._plan = plan_memory(config, backend_facts())
        self._scheduler = _scheduler.Scheduler(
            models=self._plan.models,
            drafters=[drafter.need for drafter in self._plan.drafters],
            limits=self._plan.limits,
            memory_bytes=self._plan.budget,
            memory=config.memory,
            max_waiting=config.scheduler.max_waiting,
            max_running=config.scheduler.max_running,
            speculation=config.speculation.enabled,
            max_draft=config.speculation.max_draft,
            adaptive=config.speculation.adaptive,
            shared_suffix_bytes=config.speculation.shared_suffix_bytes,
            suffix_dir=_suffix_dir(config),
            inter_token_ms=config.scheduler.inter_token_ms,
            prefix_cache=config.kv.prefix_cache,
            kv_dir=config.kv.folder,
            kv_dir_bytes=config.kv.folder_bytes,
        )
        self._runner = Runner(config, self._plan, self._scheduler, self._watch)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._generations: dict[int, Generation | TextReading] = {}
        self._loads: dict[int, asyncio.Future[End]] = {}
        self._events = ModelEvents()
        self._reader = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._admission = Admission(config.limits.max_queued_tokens, bounds_of(config))
        self._drafts_awaited = bool(self._plan.drafters)
        self._draining = False
        self._quiet = asyncio.Event()
        """Set, once draining, when the last request has ended."""

    async def start(self) -> None:
        """Start the engine thread, which loads the models; returns once tokenizers are read."""
        asyncio.get_running_loop().add_reader(self._scheduler.wake_fd, self._on_wake)
        self._loop = asyncio.get_running_loop()
        preloads = [policy.preload for policy in self._plan.models]
        for model, preload in zip(self._catalog.models, preloads, strict=True):
            model.awaited = preload
        self._thread.start()
        for model in self._catalog.models:
            if model.awaited:
                await self._read(model)
        self._reading = asyncio.create_task(self._read_all())

    async def _read_all(self) -> None:
        for model in self._catalog.models:
            await self._read(model)

    async def _read(self, model: ServedModel) -> None:
        """Read what a model's folder says of it, and its tokenizer, once."""
        async with self._reader:
            if model.tokenizer is not None or model.tokenizer_error is not None:
                return
            try:
                model.stored = await asyncio.to_thread(describe, model.id, model.folder)
                model.tokenizer = await asyncio.to_thread(Tokenizer.load, model.folder)
            except Exception:
                log.exception("tokenizer failed to load", model=model.id)
                model.tokenizer_error = "its tokenizer failed to load, see the server's log"

    async def _tokenizer(self, model: ServedModel) -> Tokenizer:
        await self._read(model)
        if model.tokenizer is None:
            raise UnavailableError(f"model {model.id!r} is not available: {model.tokenizer_error}")
        return model.tokenizer

    async def stop(self, drain_seconds: float) -> None:
        """Refuse new requests, let running ones end for so long, abort the rest, join."""
        self._draining = True
        if self._reading is not None:
            self._reading.cancel()
        self._scheduler.close()
        if self._scheduler.num_in_flight:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), drain_seconds)
        self._scheduler.abort_all()
        await asyncio.to_thread(self._runner.close)
        await asyncio.to_thread(self._thread.join, JOIN_SECONDS)
        self._on_wake()
        for ended in self._loads.values():
            ended.cancel()
        asyncio.get_running_loop().remove_reader(self._scheduler.wake_fd)

    def models(self) -> list[ModelCard]:
        """Every served model, in memory or not."""
        return [model.card(status) for model, status in self._statuses()]

    def _statuses(self) -> list[tuple[ServedModel, Status]]:
        statuses = [Status(*status) for status in self._scheduler.residency()]
        models = self._catalog.models
        return list(zip(models, statuses[: len(models)], strict=True))

    def drafters(self) -> list[DrafterCard]:
        """Every draft model, in memory or not."""
        statuses = self._scheduler.residency()[len(self._plan.models) :]
        return [
            DrafterCard(
                id=part.name,
                state=status.state,
                memory_bytes=status.held or status.need,
                num_served=status.running,
                models=tuple(
                    model.id
                    for model, policy in zip(self._catalog.models, self._plan.models, strict=True)
                    if policy.drafter == at
                ),
            )
            for at, part in enumerate(self._plan.drafters)
            for status in [Status(*statuses[at])]
        ]

    def groups(self) -> list[GroupCard]:
        """Every group of models."""
        return [group.card(self._num_requests) for group in self._catalog.groups.values()]

    def _num_requests(self, model: ServedModel) -> int:
        return self._admission.num_requests(model.index)

    def advice(self) -> list[Advice]:
        """What could be set otherwise, by what was measured."""
        return advise(
            Seen(
                counters=self.counters(),
                memory=self.memory_use(),
                models=self.models(),
                drafters=self.drafters(),
                speculation=self.speculation(),
                refused=self._admission.num_refused,
            )
        )

    def configuration(self) -> Config:
        """The configuration in force."""
        return self._config

    def regroup(self, wanted: Config) -> None:
        """Put another configuration's groups and default model in force, but for how many requests
        of a group may run, which is decided at the start. ConfigError if they do not fit the models
        that are served; nothing is changed then.
        """
        ours = self._config
        check_references(ours.models, wanted.groups, ours.drafters, wanted.default_model)
        groups = {
            name: replace(it, max_running=getattr(ours.groups.get(name), "max_running", None))
            for name, it in wanted.groups.items()
        }
        self._config = replace(ours, groups=groups, default_model=wanted.default_model)
        self._catalog.name(self._config)
        self._admission.bounds = tuple(bounds_of(self._config))

    def model(self, name: str) -> ModelCard:
        """The model of that id or alias; raises ModelNotFoundError."""
        return self._card(self._catalog.find(name))

    def _card(self, model: ServedModel) -> ModelCard:
        return model.card(self._statuses()[model.index][1])

    def model_events(self) -> AsyncGenerator[ModelCard]:
        """Every change of a model's state from now on."""
        return self._events.listen()

    async def load(self, name: str, keep_alive: float | None = None) -> ModelCard:
        """Bring a model into memory, or find it there. If the caller gives up, so does the load,
        unless others wait for it. `keep_alive` as in a request.

        Raises ModelNotFoundError, or UnavailableError with the reason.
        """
        model = self._catalog.find(name)
        try:
            caller = self._scheduler.load(model.index, keep_alive)
        except _scheduler.ClosedError as error:
            raise UnavailableError(str(error), retry_after=LOADING_RETRY_SECONDS) from None
        ended = self._loads[caller] = asyncio.get_running_loop().create_future()
        try:
            end = await ended
        finally:
            del self._loads[caller]
            self._scheduler.abort(caller)
        if end.reason != "loaded":
            text = end.message or "the server is shutting down: try again later"
            raise UnavailableError(text, retry_after=LOADING_RETRY_SECONDS)
        return self.model(name)

    def memory_use(self) -> MemoryUse:
        """Where memory has gone, by the scheduler's books, by MLX's and by the kernel's."""
        return MemoryUse(
            budget=self._plan.budget,
            held=self._scheduler.counters()["model_bytes"],
            active=mx.get_active_memory(),
            cache=mx.get_cache_memory(),
            peak=mx.get_peak_memory(),
            process=process_bytes(),
            free=backend_facts().free_memory_bytes,
        )

    def check_unload(self, name: str) -> None:
        """Raise ModelNotFoundError or ModelPinnedError where `unload` would."""
        model = self._catalog.find(name)
        if model.config.pinned:
            raise ModelPinnedError(
                f"model {model.id!r} is pinned: remove 'pinned' from its configuration"
            )

    async def unload(self, name: str) -> ModelCard:
        """Let a model go, and wait until the requests that run in it have ended and it has left.

        Raises ModelNotFoundError or ModelPinnedError.
        """
        self.check_unload(name)
        model = self._catalog.find(name)
        async with aclosing(self._events.listen()) as changes:
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)  # it listens from here on
            self._scheduler.unload(model.index)
            try:
                while self.model(name).state in LEAVING:
                    await asyncio.wait({waiting}, timeout=UNLOAD_CHECK_SECONDS)
                    if waiting.done():
                        waiting = asyncio.ensure_future(anext(changes))
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
        return self.model(name)

    def ready(self) -> bool:
        """All models that are loaded at start have come, drafters for which there is room too, and
        nobody asked to stop."""
        awaited = self._drafts_awaited or any(model.awaited for model in self._catalog.models)
        return not awaited and self.alive() and not self.stuck() and not self._draining

    def alive(self) -> bool:
        """The engine thread runs and its device computes."""
        return self._thread.is_alive() and not self._runner.device_lost

    def stuck(self) -> bool:
        """The engine thread has shown no sign of life for too long. Loads go on elsewhere."""
        limit = self._config.limits.hang_seconds
        return bool(limit) and self._scheduler.heartbeat_age > limit

    def counters(self) -> Counters:
        counts = self._scheduler.counters()
        return Counters(**{name: counts[name] for name in Counters.__struct_fields__})

    def speculation(self) -> list[SpeculationReport]:
        """What speculation did, model by model."""
        how = self._config.speculation
        return [
            SpeculationReport.of(
                model.id,
                how,
                self._scheduler.speculation(index),
                self._runner.self_drafts.of(index),
            )
            for index, model in enumerate(self._catalog.models)
        ]

    async def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request; its text comes by iterating the generation. Raises as below."""
        [generation] = await self.submit_copies(request, 1)
        return generation

    async def submit_copies(self, request: GenerationRequest, copies: int) -> list[Generation]:
        """Queue copies of a request: the first has its seed, the others seeds that follow from it.

        Raises ModelNotFoundError, ContextLengthError, BadRequestError, QueueFullError or
        UnavailableError; nothing is kept of a refused request.
        """
        model = self._catalog.route(request, self._num_requests)
        with self._refusals(_prompt_param(request)):
            self._scheduler.check_room()
        tokenizer = await self._tokenizer(model)
        if model.kind != "generative":
            raise BadRequestError(
                f"model {model.id!r} generates no text: it is for {model.capabilities[0]}, choose "
                "another one",
                param="model",
            )
        encoded = await asyncio.to_thread(_encode, tokenizer, request)
        request = tokenizer.constrained(request, encoded.prompt)
        constraint = None
        if request.grammar is not None:
            constraint = await tokenizer.grammars.compile(request.grammar)
        budget = tokenizer.thinking_budget(request, encoded.prompt)
        if budget is not None:
            constraint = constraint or Constraint(None, tokenizer.vocab_size, [])
            constraint.budget = budget
        generations = []
        with ExitStack() as unless_all_run:
            for copy in seeded_copies(request, copies):
                own = None if constraint is None else constraint.copy()
                generation = self._submit(copy, model.index, tokenizer, encoded, own)
                unless_all_run.callback(generation.close)
                generations.append(generation)
            if model.state != "resident":
                # Until they run they may still be refused, which clients should see as a status.
                for generation in generations:
                    await generation.begun()
            unless_all_run.pop_all()
        return generations

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """Read texts, each to one vector, many at once; if the caller gives up, all of them end.

        Raises what `submit` raises, and BadRequestError for a model that cannot embed.
        """
        model = self._catalog.find(request.model)
        tokenizer = await self._tokenizer(model)
        if model.kind == "cross-encoder":
            raise BadRequestError(
                f"model {model.id!r} scores pairs of texts: send them to /v1/rerank", param="model"
            )
        texts = await asyncio.to_thread(tokenizer.encode_texts, request, model.longest_text)
        pooling = request.pooling or (model.stored and model.stored.pooling) or "mean"
        wanted = [
            shaped(vector, request.dimensions, normalise=request.normalise)
            for vector in await self._read_texts(request, model, texts, pooling)
        ]
        return Embedded(wanted, sum(map(len, texts)))

    async def rerank(self, request: RerankRequest) -> Reranked:
        """Score documents by a cross-encoder, or by the cosines of embeddings. See `embed`."""
        model = self._catalog.find(request.model)
        tokenizer = await self._tokenizer(model)
        if model.kind != "cross-encoder":
            return cosines(await self.embed(both_sides(request)))
        pairs = await asyncio.to_thread(tokenizer.encode_pairs, request, model.longest_text)
        scores = await self._read_texts(request, model, pairs, "score")
        figures = [probability(score) for score in scores]
        return Reranked(figures, sum(map(len, pairs)), "cross-encoder")

    async def _read_texts(
        self, request: ReadRequest, model: ServedModel, texts: list[list[int]], pooling: Pooling
    ) -> list[Floats]:
        began = time.monotonic()

        def submit(text: list[int]) -> TextReading:
            spent = time.monotonic() - began
            left = request.timeout_seconds and max(1e-3, request.timeout_seconds - spent)
            return self._submit_text(request, model.index, text, Pooled(pooling, len(text)), left)

        most = most_under_way(self._config.scheduler.max_running)
        return await read_all(submit, texts, most)

    def _submit_text(
        self,
        request: ReadRequest,
        index: int,
        text: list[int],
        pooled: Pooled,
        timeout_seconds: float | None,
    ) -> TextReading:
        self._admission.check(len(text), index)
        harvests = self._runner.harvests
        key = harvests.add(pooled)
        try:
            with self._refusals(request.param):
                request_id = self._scheduler.submit(
                    model=index,
                    prompt=text,
                    max_tokens=0,
                    stop_tokens=[],
                    sampling=TokenSampling(),
                    speculate=False,
                    max_draft=None,
                    priority=request.priority,
                    prediction=[],
                    cache_salt="",
                    keep_alive=request.keep_alive,
                    harvest=key,
                )
        except MlxspecError:
            harvests.drop(key)
            raise
        reading = TextReading(
            pooled,
            param=request.param,
            abort=lambda: self._scheduler.abort(request_id),
            on_end=lambda: harvests.drop(key),
            deadlines=lambda fail: Deadlines(
                self._config.limits,
                timeout_seconds,
                expire=lambda: self._scheduler.expire(request_id),
                fail=fail,
            ),
        )
        self._admission.entered(request_id, len(text), index)
        self._generations[request_id] = reading
        return reading

    async def tokenize(
        self,
        model: str,
        prompt: list[Message] | str,
        chat: ChatOptions = PLAIN_CHAT,
        *,
        special: bool = True,
    ) -> list[int]:
        """Ids of a rendered conversation or a text; ModelNotFoundError or UnavailableError.

        `special` puts in front of a text what the model expects there.
        """
        tokenizer = await self._tokenizer(self._catalog.find(model))
        return await asyncio.to_thread(tokenizer.encode, prompt, chat, special=special)

    async def detokenize(self, model: str, tokens: Sequence[list[int]]) -> list[str]:
        """The text of each run of ids, special tokens spelled out; BadRequestError for no token."""
        tokenizer = await self._tokenizer(self._catalog.find(model))
        return await asyncio.to_thread(lambda: [tokenizer.decode(run) for run in tokens])

    async def render(self, model: str, messages: list[Message], chat: ChatOptions) -> str:
        """The prompt that the model's chat template makes of a conversation."""
        tokenizer = await self._tokenizer(self._catalog.find(model))
        return await asyncio.to_thread(tokenizer.render, messages, chat)

    def _submit(
        self,
        request: GenerationRequest,
        index: int,
        tokenizer: Tokenizer,
        encoded: Encoded,
        constraint: Constraint | None,
    ) -> Generation:
        self._admission.check(len(encoded.prompt), index)
        stops = stop_tokens(request, tokenizer)
        sampling = token_sampling(request, tokenizer, stops)
        constraints = self._runner.constraints(index)
        key = 0 if constraint is None else constraints.add(constraint)
        harvests, report = self._runner.harvests, tokenizer.prompt_report(request, encoded.prompt)
        harvest = 0 if report is None else harvests.add(report.scores)

        def forget() -> str:
            harvests.drop(harvest)
            return constraints.drop(key)

        try:
            sampling = replace(sampling, constraint=key)
            request_id = self._queue(
                request, index, encoded, stops=stops, sampling=sampling, harvest=harvest
            )
        except MlxspecError:
            forget()
            raise
        generation = Generation(
            num_prompt_tokens=len(encoded.prompt),
            output=tokenizer.output(request, encoded.prompt, frozenset(stops)),
            abort=lambda: self._scheduler.abort(request_id),
            on_end=forget,
            report=report,
            deadlines=lambda fail: Deadlines(
                self._config.limits,
                request.timeout_seconds,
                expire=lambda: self._scheduler.expire(request_id),
                fail=fail,
            ),
        )
        self._admission.entered(request_id, len(encoded.prompt), index)
        self._generations[request_id] = generation
        return generation

    def _queue(
        self,
        request: GenerationRequest,
        index: int,
        encoded: Encoded,
        *,
        stops: list[int],
        sampling: TokenSampling,
        harvest: int,
    ) -> int:
        """Hand a request to the scheduler; returns its id, or raises what the client is to see."""
        with self._refusals(_prompt_param(request)):
            return self._scheduler.submit(
                model=index,
                prompt=encoded.prompt,
                max_tokens=request.max_tokens,
                stop_tokens=stops,
                sampling=sampling,
                speculate=request.speculative and self._config.speculation.enabled,
                max_draft=request.max_draft,
                priority=request.priority,
                prediction=encoded.prediction,
                cache_salt=request.cache_salt,
                keep_alive=request.keep_alive,
                harvest=harvest,
            )

    @contextmanager
    def _refusals(self, prompt_param: str) -> Iterator[None]:
        """What the client is to see of a submission that the scheduler refuses."""
        try:
            yield
        except _scheduler.PromptTooLongError as error:
            raise ContextLengthError(str(error), param=prompt_param) from None
        except _scheduler.PredictionTooLongError as error:
            raise ContextLengthError(str(error), param="prediction") from None
        except _scheduler.RequestTooLargeError as error:
            raise BadRequestError(str(error), param="max_tokens") from None
        except _scheduler.QueueFullError as error:
            raise self._admission.refused(str(error)) from None
        except (_scheduler.ClosedError, _scheduler.MemoryShortError) as error:
            raise UnavailableError(str(error), retry_after=LOADING_RETRY_SECONDS) from None
        except ValueError as error:
            raise BadRequestError(str(error)) from None

    def _run(self) -> None:
        try:
            self._runner.serve(self._scheduler)
        except RuntimeError:
            log.exception("the engine stopped")

    def _on_wake(self) -> None:
        """Hand the news of one or more steps to their generations. Event loop only."""
        for request_id, tokens, logprobs, end in self._scheduler.drain():
            self._admission.left(request_id)
            if (ended := self._loads.get(request_id)) and end is not None and not ended.done():
                ended.set_result(End(*end))
            generation = self._generations.get(request_id)
            if generation is None:
                continue
            if end is not None:
                del self._generations[request_id]
                self._admission.ended(request_id)
            generation.deliver(tokens, logprobs, None if end is None else End(*end))
        self._note_residency()
        if self._draining and self._scheduler.num_in_flight == 0:
            self._quiet.set()

    def _note_residency(self) -> None:
        """Take over where models stand, and tell those who listen."""
        for model, status in self._statuses():
            if model.state != status.state:
                model.state, model.progress = status.state, None
                model.awaited &= model.state != "resident"
                model.load_error = self._runner.load_error(model.index)
                model.context_length = self._runner.context_length(model.index)
                model.shows_hidden = self._runner.shows_hidden(model.index)
                self._events.publish(model.card(status))
        # They are ordered in the turn that brings the last model in, if there is room for them.
        if self._drafts_awaited and not any(model.awaited for model in self._catalog.models):
            self._drafts_awaited = any(it.state == "loading" for it in self.drafters())

    def _watch(self, index: int, done: int, total: int) -> None:
        """How a load gets on; called on the loader thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody listens
            self._loop.call_soon_threadsafe(self._note_progress, index, done, total)

    def _note_progress(self, index: int, done: int, total: int) -> None:
        if self._plan.drafter(index) is not None:
            return  # nobody waits for it
        model = self._catalog.models[index]
        model.progress = done / total if total else None
        if model.state == "loading":
            self._events.publish(self._card(model))


def _encode(tokenizer: Tokenizer, request: GenerationRequest) -> Encoded:
    """Off the event loop: long texts take their time."""
    prompt = tokenizer.encode_request(request)
    return Encoded(prompt, tokenizer.encode_answer(request.prediction))


def _suffix_dir(config: Config) -> str | None:
    """Where answers outlive the server; forced ones do not deserve to."""
    speculation = config.speculation
    return speculation.suffix_dir if speculation.synthetic_acceptance is None else None


def _prompt_param(request: GenerationRequest) -> str:
    """The request field that the prompt came from: chat messages are a list of dicts."""
    is_chat = isinstance(request.prompt, list) and isinstance(request.prompt[0], dict)
    return "messages" if is_chat else "prompt"
