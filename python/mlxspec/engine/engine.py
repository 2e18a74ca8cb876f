"""The engine as the API sees it: submit a request, get a stream of text.

Three threads meet here: the event loop (everything public), the engine thread (Rust's loop, which
calls the runner), and worker threads that render and tokenise prompts. News from the engine thread
arrives through one file descriptor per event loop, once per step.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import structlog
from msgspec import Struct
from msgspec.structs import replace

from mlxspec import _scheduler
from mlxspec.config import Config
from mlxspec.engine.admission import Admission
from mlxspec.engine.deadlines import Deadlines
from mlxspec.engine.generation import End, Generation
from mlxspec.engine.request import (
    PLAIN_CHAT,
    ChatOptions,
    GenerationRequest,
    Message,
    ModelCard,
)
from mlxspec.engine.runner import Runner
from mlxspec.engine.sampling import TokenSampling, seeded_copies, stop_tokens, token_sampling
from mlxspec.engine.speculation import SpeculationReport
from mlxspec.engine.tokenizer import Tokenizer
from mlxspec.errors import (
    BadRequestError,
    ContextLengthError,
    MlxspecError,
    ModelNotFoundError,
    QueueFullError,
    UnavailableError,
)
from mlxspec.model.store import StoredModel, describe
from mlxspec.speculative.constrain import Constraint

log = structlog.get_logger()

LOADING_RETRY_SECONDS = 5
JOIN_SECONDS = 5.0
"""Patience with a step, or a load, that is under way when everything else has ended."""


class Counters(Struct, frozen=True, kw_only=True):
    """The scheduler's counters: cumulative, but for the gauges named so in its stub."""

    requests_submitted: int
    requests_rejected: int
    requests_finished: int
    requests_aborted: int
    requests_failed: int
    requests_expired: int
    late_aborts: int
    requests_waiting: int
    requests_running: int
    kv_blocks_total: int
    kv_blocks_used: int
    kv_blocks_cached: int
    cached_tokens: int
    prefix_evictions: int
    preemptions: int
    steps: int
    step_errors: int
    integrity_errors: int
    wake_errors: int
    suffix_file_errors: int
    prompt_tokens: int
    generated_tokens: int
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    accepted_per_pos: list[int]
    drafters: list[tuple[str, int, int]]


class Encoded(NamedTuple):
    """A request's texts as tokens."""

    prompt: list[int]
    prediction: list[int]


class ServedModel:
    """One configured model: what clients see of it, and its tokenizer once read."""

    def __init__(self, model_id: str) -> None:
        self.id = model_id
        self.created = int(time.time())
        self.state: Literal["loading", "resident", "failed"] = "loading"
        self.context_length: int | None = None
        self.error: str | None = None
        self.tokenizer: Tokenizer | None = None
        self.stored: StoredModel | None = None
        """What its folder says of it, once read."""

    def card(self) -> ModelCard:
        """What clients see of it now."""
        stored, tokenizer = self.stored, self.tokenizer
        return ModelCard(
            id=self.id,
            created=self.created,
            state="failed" if self.error else self.state,
            context_length=self.context_length,
            num_bytes=stored.num_bytes if stored else 0,
            model_type=stored.model_type if stored else "unknown",
            dtype=stored.dtype if stored else "unknown",
            chat_template=tokenizer.chat_template if tokenizer else "",
            capabilities=tokenizer.capabilities if tokenizer else ("completion",),
        )


class Engine:
    """All models, one engine thread. Make it, `start` it, `submit` requests, `stop` it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._models = [ServedModel(model.id) for model in config.models]
        self._index = {model.id: at for at, model in enumerate(self._models)}
        self._scheduler = _scheduler.Scheduler(
            num_models=len(self._models),
            max_waiting=config.scheduler.max_waiting,
            max_running=config.scheduler.max_running,
            speculation=config.speculation.enabled,
            max_draft=config.speculation.max_draft,
            shared_suffix_bytes=config.speculation.shared_suffix_bytes,
            suffix_dir=_suffix_dir(config),
            inter_token_ms=config.scheduler.inter_token_ms,
            prefix_cache=config.kv.prefix_cache,
        )
        self._runner = Runner(config, self._on_state)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._generations: dict[int, Generation] = {}
        self._admission = Admission(config.limits.max_queued_tokens)
        self._draining = False
        self._quiet = asyncio.Event()
        """Set, once draining, when the last request has ended."""

    async def start(self) -> None:
        """Start the engine thread, which loads the models; returns once tokenizers are read."""
        asyncio.get_running_loop().add_reader(self._scheduler.wake_fd, self._on_wake)
        self._thread.start()
        for model, config in zip(self._models, self._config.models, strict=True):
            folder = Path(config.source)
            try:
                model.stored = await asyncio.to_thread(describe, model.id, folder)
                model.tokenizer = await asyncio.to_thread(Tokenizer.load, folder)
            except Exception:
                log.exception("tokenizer failed to load", model=model.id)
                model.error = "its tokenizer failed to load, see the server's log"

    async def stop(self, drain_seconds: float) -> None:
        """Refuse new requests, let running ones end for so long, abort the rest, join."""
        self._draining = True
        self._scheduler.close()
        if self._scheduler.num_in_flight:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), drain_seconds)
        self._scheduler.abort_all()
        await asyncio.to_thread(self._thread.join, JOIN_SECONDS)
        self._on_wake()
        asyncio.get_running_loop().remove_reader(self._scheduler.wake_fd)

    def models(self) -> list[ModelCard]:
        return [model.card() for model in self._models]

    def ready(self) -> bool:
        """All models are in memory and nobody asked to stop."""
        resident = all(card.state == "resident" for card in self.models())
        return resident and self.alive() and not self.stuck() and not self._draining

    def alive(self) -> bool:
        """The engine thread runs and its device computes."""
        return self._thread.is_alive() and not self._runner.device_lost

    def stuck(self) -> bool:
        """The engine thread has shown no sign of life for too long; a load may take its time."""
        limit = self._config.limits.hang_seconds
        loading = any(model.state == "loading" for model in self._models)
        return bool(limit) and not loading and self._scheduler.heartbeat_age > limit

    def counters(self) -> Counters:
        counts = self._scheduler.counters()
        return Counters(**{name: counts[name] for name in Counters.__struct_fields__})

    def speculation(self) -> list[SpeculationReport]:
        """What speculation did, model by model."""
        synthetic = self._config.speculation.synthetic_acceptance
        return [
            SpeculationReport.of(model.id, synthetic, self._scheduler.speculation(index))
            for index, model in enumerate(self._models)
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
        index = self._find(request.model)
        tokenizer = self._tokenizer(index)
        encoded = await asyncio.to_thread(_encode, tokenizer, request)
        request = tokenizer.constrained(request, encoded.prompt)
        constraint = None
        if request.grammar is not None:
            constraint = await tokenizer.grammars.compile(request.grammar)
        generations = []
        with ExitStack() as unless_all_run:
            for copy in seeded_copies(request, copies):
                own = None if constraint is None else constraint.copy()
                generation = self._submit(copy, index, tokenizer, encoded, own)
                unless_all_run.callback(generation.close)
                generations.append(generation)
            unless_all_run.pop_all()
        return generations

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
        encode = self._tokenizer(self._find(model)).encode
        return await asyncio.to_thread(encode, prompt, chat, special=special)

    async def detokenize(self, model: str, tokens: Sequence[list[int]]) -> list[str]:
        """The text of each run of ids, special tokens spelled out; BadRequestError for no token."""
        decode = self._tokenizer(self._find(model)).decode
        return await asyncio.to_thread(lambda: [decode(run) for run in tokens])

    async def render(self, model: str, messages: list[Message], chat: ChatOptions) -> str:
        """The prompt that the model's chat template makes of a conversation."""
        return await asyncio.to_thread(self._tokenizer(self._find(model)).render, messages, chat)

    def _find(self, model: str) -> int:
        index = self._index.get(model)
        if index is None:
            served = ", ".join(self._index) or "none"
            raise ModelNotFoundError(
                f"model {model!r} is not served here: use one of {served}", param="model"
            )
        return index

    def _tokenizer(self, index: int) -> Tokenizer:
        model = self._models[index]
        if model.error is not None:
            raise UnavailableError(f"model {model.id!r} is not available: {model.error}")
        if model.tokenizer is None:
            raise self._still_loading(model)
        return model.tokenizer

    def _submit(
        self,
        request: GenerationRequest,
        index: int,
        tokenizer: Tokenizer,
        encoded: Encoded,
        constraint: Constraint | None,
    ) -> Generation:
        self._admission.check(len(encoded.prompt))
        stops = stop_tokens(request, tokenizer)
        sampling = token_sampling(request, tokenizer, stops)
        constraints = self._runner.constraints(index)
        if constraints is None:
            raise self._still_loading(self._models[index])
        key = 0 if constraint is None else constraints.add(constraint)
        try:
            sampling = replace(sampling, constraint=key)
            request_id = self._queue(request, index, encoded, stops, sampling)
        except MlxspecError:
            constraints.drop(key)
            raise
        generation = Generation(
            num_prompt_tokens=len(encoded.prompt),
            output=tokenizer.output(request, encoded.prompt, frozenset(stops)),
            abort=lambda: self._scheduler.abort(request_id),
            on_end=lambda: constraints.drop(key),
            deadlines=lambda fail: Deadlines(
                self._config.limits,
                request.timeout_seconds,
                expire=lambda: self._scheduler.expire(request_id),
                fail=fail,
            ),
        )
        self._admission.entered(request_id, len(encoded.prompt))
        self._generations[request_id] = generation
        return generation

    def _queue(
        self,
        request: GenerationRequest,
        index: int,
        encoded: Encoded,
        stops: list[int],
        sampling: TokenSampling,
    ) -> int:
        """Hand a request to the scheduler; returns its id, or raises what the client is to see."""
        try:
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
            )
        except _scheduler.PromptTooLongError as error:
            raise ContextLengthError(str(error), param=_prompt_param(request)) from None
        except _scheduler.PredictionTooLongError as error:
            raise ContextLengthError(str(error), param="prediction") from None
        except _scheduler.RequestTooLargeError as error:
            raise BadRequestError(str(error), param="max_tokens") from None
        except _scheduler.QueueFullError as error:
            raise QueueFullError(str(error), retry_after=self._admission.retry_after()) from None
        except _scheduler.ClosedError as error:
            raise UnavailableError(str(error), retry_after=LOADING_RETRY_SECONDS) from None
        except _scheduler.NotResidentError:
            raise self._still_loading(self._models[index]) from None
        except ValueError as error:
            raise BadRequestError(str(error)) from None

    def _still_loading(self, model: ServedModel) -> UnavailableError:
        return UnavailableError(
            f"model {model.id!r} is still loading: try again in a few seconds",
            retry_after=LOADING_RETRY_SECONDS,
        )

    def _run(self) -> None:
        try:
            self._runner.serve(self._scheduler)
        except RuntimeError:
            log.exception("the engine stopped")

    def _on_wake(self) -> None:
        """Hand the news of one or more steps to their generations. Event loop only."""
        for request_id, tokens, logprobs, end in self._scheduler.drain():
            self._admission.left(request_id)
            generation = self._generations.get(request_id)
            if generation is None:
                continue
            if end is not None:
                del self._generations[request_id]
                self._admission.ended()
            generation.deliver(tokens, logprobs, None if end is None else End(*end))
        if self._draining and self._scheduler.num_in_flight == 0:
            self._quiet.set()

    def _on_state(
        self, index: int, state: Any, context_length: int | None, error: str | None
    ) -> None:
        """Where a model stands; called on the engine thread, single assignments only."""
        model = self._models[index]
        model.context_length = context_length
        model.error = model.error or error
        model.state = state


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
