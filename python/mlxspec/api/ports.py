"""What the API needs of the engine: Protocols, so that HTTP knows neither MLX nor threads."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Protocol

from mlxspec.config import Config
from mlxspec.engine.advice import Advice
from mlxspec.engine.request import (
    PLAIN_CHAT,
    ChatOptions,
    Delta,
    DrafterCard,
    Embedded,
    EmbeddingRequest,
    GenerationRequest,
    GroupCard,
    MemoryUse,
    Message,
    ModelCard,
    PromptToken,
    RequestMetrics,
    Reranked,
    RerankRequest,
    Usage,
)
from mlxspec.engine.speculation import SpeculationReport
from mlxspec.metrics import CountersLike


class GenerationLike(Protocol):
    """One running request. All members are for the event loop's thread."""

    def __aiter__(self) -> AsyncIterator[Delta]:
        """Iterate once; ends after the delta with a finish reason; EngineError if a step fails."""
        ...

    def close(self) -> None:
        """Abort; idempotent, and harmless after the end."""
        ...

    @property
    def age_seconds(self) -> float:
        """Time since it was queued."""
        ...

    @property
    def usage(self) -> Usage:
        """Token counts so far; final after the last delta."""
        ...

    @property
    def prompt_tokens(self) -> Sequence[PromptToken]:
        """The prompt token by token, if the request asks for its logprobs; after the last delta."""
        ...

    @property
    def metrics(self) -> RequestMetrics:
        """Times and speculation so far; final after the last delta."""
        ...


class EngineLike(Protocol):
    """The engine as the API sees it. All members are for the event loop's thread."""

    async def start(self) -> None:
        """Start the engine thread, which loads the models; returns once tokenizers are read."""
        ...

    async def stop(self, drain_seconds: float) -> None:
        """Refuse new requests, wait for the running ones, abort what is left, join the thread."""
        ...

    def models(self) -> Sequence[ModelCard]:
        """All configured models, whatever their state."""
        ...

    def drafters(self) -> Sequence[DrafterCard]:
        """All draft models, whatever their state."""
        ...

    def groups(self) -> Sequence[GroupCard]:
        """All groups of models."""
        ...

    def advice(self) -> Sequence[Advice]:
        """What could be set otherwise, by what was measured."""
        ...

    def configuration(self) -> Config:
        """The configuration in force."""
        ...

    def regroup(self, wanted: Config) -> None:
        """Put another configuration's groups and default model in force; ConfigError if they do not
        fit the models that are served, and then nothing is changed."""
        ...

    def model(self, name: str) -> ModelCard:
        """The configured model of that id or alias; ModelNotFoundError if there is none."""
        ...

    def model_events(self) -> AsyncGenerator[ModelCard]:
        """Every change of a model's state from now on."""
        ...

    async def load(self, name: str, keep_alive: float | None = None) -> ModelCard:
        """Bring a model into memory; ModelNotFoundError, or UnavailableError with the reason."""
        ...

    def check_unload(self, name: str) -> None:
        """Raise ModelNotFoundError or ModelPinnedError where `unload` would."""
        ...

    async def unload(self, name: str) -> ModelCard:
        """Let a model go and wait until it has; ModelNotFoundError or ModelPinnedError."""
        ...

    def memory_use(self) -> MemoryUse:
        """Where memory has gone."""
        ...

    def ready(self) -> bool:
        """Whether the models loaded at start have come, and the engine is not draining."""
        ...

    def alive(self) -> bool:
        """Whether the engine thread runs and its device computes."""
        ...

    def stuck(self) -> bool:
        """Whether a step has been under way for longer than one may."""
        ...

    def counters(self) -> CountersLike:
        """The scheduler's counters, read at once."""
        ...

    def speculation(self) -> Sequence[SpeculationReport]:
        """What speculation did, model by model."""
        ...

    async def submit(self, request: GenerationRequest) -> GenerationLike:
        """Render, tokenise and queue; raises MlxspecError when the request is refused."""
        ...

    async def submit_copies(
        self, request: GenerationRequest, copies: int
    ) -> Sequence[GenerationLike]:
        """Render and tokenise once, queue copies with seeds of their own; all are accepted or none.

        Raises what `submit` raises.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """Read texts, each to one vector; raises what `submit` raises, BadRequestError if the model
        cannot embed."""
        ...

    async def rerank(self, request: RerankRequest) -> Reranked:
        """Score documents against a query; raises what `embed` raises."""
        ...

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
        ...

    async def detokenize(self, model: str, tokens: Sequence[list[int]]) -> list[str]:
        """The text of each run of ids, special tokens spelled out; BadRequestError for no token."""
        ...

    async def render(self, model: str, messages: list[Message], chat: ChatOptions) -> str:
        """The prompt that the model's chat template makes of a conversation."""
        ...
