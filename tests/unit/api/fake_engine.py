"""An engine that plays a script: for the API's tests, and for serving without a model."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from mlxspec.config import Config
from mlxspec.engine.advice import Advice
from mlxspec.engine.request import (
    PLAIN_CHAT,
    Capability,
    ChatOptions,
    Delta,
    DrafterCard,
    Embedded,
    EmbeddingRequest,
    FinishReason,
    GenerationRequest,
    GroupCard,
    MemoryUse,
    Message,
    ModelCard,
    PromptToken,
    ReadRequest,
    RequestMetrics,
    Reranked,
    RerankRequest,
    SpeculationMetrics,
    Usage,
)
from mlxspec.engine.speculation import SpeculationReport
from mlxspec.errors import (
    BadRequestError,
    ConfigError,
    MlxspecError,
    ModelNotFoundError,
    ModelPinnedError,
    UnavailableError,
)

SPECULATION = SpeculationMetrics(
    mean_acceptance_length=2.5,
    draft_acceptance_rate=0.75,
    acceptance_histogram=[0, 1, 1],
    num_spec_steps=2,
    num_accepted_draft_tokens=3,
    num_draft_tokens=4,
    num_spec_tokens=2,
)
METRICS = RequestMetrics(
    time_to_first_token_ms=12.0,
    queue_time_ms=1.0,
    mean_itl_ms=5.0,
    tokens_per_second=200.0,
    speculative_decoding=SPECULATION,
)
AGE_SECONDS = 0.5
PROMPT_TOKENS = 7
CACHED_TOKENS = 3
VOCABULARY = 0xD800
"""Letters that have a code of their own."""

Step = str | Delta | float | asyncio.Event | Exception
"""New text, a whole delta, seconds to sleep, something to wait for, or a failure."""


class FakeCounters(Struct, frozen=True, kw_only=True):
    """Every counter its own number, so that a mix-up shows."""

    requests_submitted: int = 101
    requests_finished: int = 102
    requests_aborted: int = 103
    requests_failed: int = 104
    requests_rejected: int = 105
    requests_waiting: int = 106
    requests_running: int = 107
    kv_blocks_total: int = 108
    kv_blocks_used: int = 109
    kv_blocks_cached: int = 122
    cached_tokens: int = 123
    prefix_evictions: int = 124
    preemptions: int = 110
    model_bytes: int = 162
    models_resident: int = 163
    model_loads: int = 164
    model_load_errors: int = 165
    model_evictions: int = 166
    drafter_loads: int = 167
    drafter_evictions: int = 168
    memory_permille: int = 140
    memory_shortage: int = 141
    memory_trims: int = 142
    memory_refusals: int = 143
    steps: int = 111
    prompt_tokens: int = 112
    generated_tokens: int = 113
    step_errors: int = 114
    requests_expired: int = 122
    late_aborts: int = 119
    integrity_errors: int = 120
    wake_errors: int = 121
    suffix_file_errors: int = 126
    kv_file_bytes: int = 127
    kv_file_tokens: int = 128
    kv_files_dropped: int = 129
    kv_file_errors: int = 130
    num_drafts: int = 115
    num_draft_tokens: int = 116
    num_accepted_tokens: int = 117
    drafted_per_pos: tuple[int, ...] = (128, 129)
    accepted_per_pos: tuple[int, ...] = (118, 119)
    drafters: tuple[tuple[str, int, int], ...] = (("suffix", 122, 123), ("prediction", 124, 125))


class FakeGeneration:
    """Plays its script; remembers that it was closed, and whether it had ended by then."""

    def __init__(
        self, script: Sequence[Step], finish: FinishReason | None, stop: str | None
    ) -> None:
        self._script = script
        self._finish = finish
        self._stop = stop
        self._num_tokens = 0
        self._num_reasoning_tokens = 0
        self._aborted = asyncio.Event()
        self.waiting = asyncio.Event()
        """Set when the script first waits for something."""
        self.prompt: tuple[PromptToken, ...] = ()
        """Told at the end."""
        self.predicted = (0, 0)
        """Accepted and rejected tokens of the client's prediction, told at the end."""
        self.ended = False
        self.closed = False
        self.closed_while_running = False

    async def __aiter__(self) -> AsyncIterator[Delta]:
        for step in self._script:
            match step:
                case str():
                    self._num_tokens += 1
                    yield Delta(text=step, num_tokens=1)
                case Delta():
                    self._num_tokens += step.num_tokens
                    self._num_reasoning_tokens += step.num_tokens if step.reasoning else 0
                    yield step
                case Exception():
                    raise step
                case _:
                    self.waiting.set()
                    await self._wait(step)
            if self._aborted.is_set():
                yield Delta(text="", num_tokens=0, finish_reason="abort")
                return
        self.ended = True
        if self._finish is not None:
            yield Delta(text="", num_tokens=0, finish_reason=self._finish, stop=self._stop)

    async def _wait(self, step: asyncio.Event | float) -> None:
        waits = [
            asyncio.create_task(self._aborted.wait()),
            asyncio.create_task(step.wait() if isinstance(step, asyncio.Event) else _sleep(step)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    @property
    def age_seconds(self) -> float:
        return AGE_SECONDS

    def abort(self) -> None:
        """What the engine does to a request that outlives the drain."""
        self._aborted.set()

    def close(self) -> None:
        self.closed_while_running |= not self.closed and not self.ended
        self.closed = True

    @property
    def usage(self) -> Usage:
        accepted, rejected = self.predicted if self.ended else (0, 0)
        return Usage(
            prompt_tokens=PROMPT_TOKENS,
            completion_tokens=self._num_tokens,
            reasoning_tokens=self._num_reasoning_tokens,
            accepted_prediction_tokens=accepted,
            rejected_prediction_tokens=rejected,
            cached_tokens=CACHED_TOKENS,
        )

    @property
    def prompt_tokens(self) -> tuple[PromptToken, ...]:
        return self.prompt if self.ended else ()

    @property
    def metrics(self) -> RequestMetrics:
        return METRICS


async def _sleep(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return True


class FakeEngine:
    """Serves the models `demo` and `org/other`; every request plays the same script."""

    def __init__(
        self, script: Sequence[Step] = ("Hello", " world"), finish: FinishReason | None = "stop"
    ) -> None:
        self.script = script
        self.finish = finish
        self.stopped_by: str | None = None
        self.predicted = (0, 0)
        self.prompt: tuple[PromptToken, ...] = ()
        self.reports: list[SpeculationReport] = []
        self.refusal: MlxspecError | Exception | None = None
        self.scripts: list[Sequence[Step]] = []
        """Played first, one each, before `script`."""
        self.requests: list[GenerationRequest] = []
        self.read: list[ReadRequest] = []
        self.asked = asyncio.Event()
        """Set once there are texts to be read."""
        self.reading = asyncio.Event()
        self.reading.set()
        """Cleared while texts are not to be read."""
        self.reads_given_up = 0
        self.generations: list[FakeGeneration] = []
        self.accepted: asyncio.Queue[FakeGeneration] = asyncio.Queue()
        self.is_ready = True
        self.is_alive = True
        self.capabilities: tuple[Capability, ...] = ("completion",)
        self.is_stuck = False
        self.states: dict[str, str] = {"demo": "resident", "org/other": "resident"}
        self.changes: asyncio.Queue[ModelCard] = asyncio.Queue()
        self.pinned: set[str] = set()
        self.config = Config()
        self.log: list[str] = []

    async def start(self) -> None:
        self.log.append("start")

    async def stop(self, drain_seconds: float) -> None:
        self.log.append(f"stop after {drain_seconds}")
        self.is_ready = False
        self.refusal = UnavailableError("the server is draining", retry_after=5)
        deadline = asyncio.get_running_loop().time() + drain_seconds
        while any(not generation.closed for generation in self.generations):
            if asyncio.get_running_loop().time() >= deadline:
                for generation in self.generations:
                    generation.abort()
            await asyncio.sleep(0.01)

    def models(self) -> list[ModelCard]:
        return [
            ModelCard(
                id=name,
                created=1_700_000_000,
                state=state,  # type: ignore[arg-type]
                context_length=4096,
                num_bytes=1000,
                model_type="llama",
                dtype="4-bit",
                chat_template="{{ messages }}",
                capabilities=self.capabilities,
                awaited=state == "loading",
                memory_bytes=2000,
                pinned=name in self.pinned,
                tags=("small",) if name == "demo" else (),
            )
            for name, state in self.states.items()
        ]

    def drafters(self) -> list[DrafterCard]:
        return [
            DrafterCard(id="quick", state="resident", memory_bytes=9, num_served=1, models=("m",))
        ]

    def groups(self) -> list[GroupCard]:
        return [
            GroupCard(
                id=name,
                members=group.members,
                default=group.default or group.members[0],
                balance=group.balance,
                description=group.description,
                tags=group.tags,
                types=("llama",),
                max_running=group.max_running,
                max_waiting=group.max_waiting,
                requests=0,
            )
            for name, group in self.config.groups.items()
        ]

    def advice(self) -> list[Advice]:
        return [Advice(setting="--memory", advice="more", figures={"budget": 7})]

    def configuration(self) -> Config:
        return self.config

    def regroup(self, wanted: Config) -> None:
        if wanted.default_model == "stranger":
            raise ConfigError("default_model = 'stranger' is no model's name")
        self.config = replace(self.config, groups=wanted.groups, default_model=wanted.default_model)

    def model(self, name: str) -> ModelCard:
        cards = {card.id: card for card in self.models()}
        if name not in cards:
            raise ModelNotFoundError(f"model {name!r} is not served here", param="model")
        return cards[name]

    async def model_events(self) -> AsyncGenerator[ModelCard]:
        while True:
            yield await self.changes.get()

    async def load(self, name: str, keep_alive: float | None = None) -> ModelCard:
        card = self.model(name)
        if self.refusal is not None:
            raise self.refusal
        self.log.append(f"load {name} for {keep_alive}")
        self.states[name] = "resident"
        return self.model(card.id)

    def check_unload(self, name: str) -> None:
        if self.model(name).pinned:
            raise ModelPinnedError(f"model {name} is pinned")

    async def unload(self, name: str) -> ModelCard:
        self.check_unload(name)
        self.log.append(f"unload {name}")
        self.states[name] = "absent"
        return self.model(name)

    def memory_use(self) -> MemoryUse:
        return MemoryUse(budget=7, held=6, active=5, cache=4, peak=3, process=2, free=1)

    def ready(self) -> bool:
        return self.is_ready

    def alive(self) -> bool:
        return self.is_alive

    def stuck(self) -> bool:
        return self.is_stuck

    def counters(self) -> FakeCounters:
        return FakeCounters()

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """A vector of a text's length, its place, and a half; a token a letter."""
        await self._read(request)
        vectors = [
            np.array([len(text), at, 0.5], np.float32)[: request.dimensions]
            for at, text in enumerate(request.inputs)
        ]
        return Embedded(vectors, sum(map(len, request.inputs)))

    async def rerank(self, request: RerankRequest) -> Reranked:
        """The longer a document, the better."""
        await self._read(request)
        scores = [len(text) / 10 for text in request.documents]
        return Reranked(scores, sum(map(len, request.documents)), "cosine")

    async def _read(self, request: ReadRequest) -> None:
        self._known(request.model)
        if self.refusal is not None:
            raise self.refusal
        self.read.append(request)
        self.asked.set()
        try:
            await self.reading.wait()
        except asyncio.CancelledError:
            self.reads_given_up += 1
            raise

    async def tokenize(
        self,
        model: str,
        prompt: list[Message] | str,
        chat: ChatOptions = PLAIN_CHAT,
        *,
        special: bool = True,
    ) -> list[int]:
        """One token a letter, its code, and a 1 for what the model expects in front."""
        self._known(model)
        if isinstance(prompt, str):
            return [*([1] if special else []), *map(ord, prompt)]
        return [ord(letter) for letter in await self.render(model, prompt, chat)]

    async def detokenize(self, model: str, tokens: Sequence[list[int]]) -> list[str]:
        self._known(model)
        if any(token >= VOCABULARY for run in tokens for token in run):
            raise BadRequestError(f"a token is not in the vocabulary of {VOCABULARY}")
        return ["".join(map(chr, run)) for run in tokens]

    async def render(self, model: str, messages: list[Message], chat: ChatOptions) -> str:
        """Tools' names and messages' contents, a line each."""
        self._known(model)
        tools = [tool["function"]["name"] for tool in chat.tools]
        return "\n".join([*tools, *(message["content"] for message in messages)])

    def _known(self, model: str) -> None:
        if model not in self.states:
            raise ModelNotFoundError(f"model {model} is not served here", param="model")

    def speculation(self) -> list[SpeculationReport]:
        return self.reports

    async def submit_copies(self, request: GenerationRequest, copies: int) -> list[FakeGeneration]:
        return [await self.submit(request) for _ in range(copies)]

    async def submit(self, request: GenerationRequest) -> FakeGeneration:
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        self._known(request.model)
        self.requests.append(request)
        script = self.scripts.pop(0) if self.scripts else self.script
        generation = FakeGeneration(script, self.finish, self.stopped_by)
        generation.predicted = self.predicted
        generation.prompt = () if request.prompt_logprobs is None else self.prompt
        self.generations.append(generation)
        self.accepted.put_nowait(generation)
        return generation
