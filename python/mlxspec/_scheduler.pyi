"""The Rust extension: request queue, batch formation, KV bookkeeping, drafting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, final

__all__ = [
    "BLOCK_TOKENS",
    "SEGMENT_TOKENS",
    "ClosedError",
    "MemoryShortError",
    "PredictionTooLongError",
    "PromptTooLongError",
    "QueueFullError",
    "RequestTooLargeError",
    "Scheduler",
    "promised_speedup",
]

BLOCK_TOKENS: Final[int]
"""KV positions per block."""

SEGMENT_TOKENS: Final[int]
"""KV positions per file on disk."""

class QueueFullError(RuntimeError): ...
class ClosedError(RuntimeError): ...
class MemoryShortError(RuntimeError): ...
class PredictionTooLongError(ValueError): ...
class PromptTooLongError(ValueError): ...
class RequestTooLargeError(ValueError): ...

class _Runner(Protocol):
    def load(self, model: int, num_bytes: int, /) -> None:
        """Begin to load; `loaded`, `load_resized`, `load_failed` or `load_cancelled` ends it."""
    def cancel_load(self, model: int, /) -> None: ...
    def evict(self, model: int, /) -> None: ...
    def step(self, packed: bytes, /) -> Any:
        """Returns any buffer of uint32: kept drafts by row, tokens, packed logprobs."""
    def save_kv(self, model: int, slab: int, slot: int, start: int, file: Path, /) -> int:
        """Write a segment to a file, and return its bytes."""
    def read_kv(
        self, model: int, slab: int, slot: int, start: int, known: int, file: Path, /
    ) -> bool:
        """Read a segment from a file; False if it is not what it should be."""
    def memory_share(self) -> float:
        """What the process holds of what it may; asked for if the watermarks are not 0."""
    def trim(self) -> None:
        """Give freed memory back that is kept for later."""

class _Sampling(Protocol):
    """How to draw; `Sampling` in Rust says what each attribute means."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def xtc_probability(self) -> float: ...
    @property
    def xtc_threshold(self) -> float: ...
    @property
    def xtc_spared(self) -> list[int]: ...
    @property
    def seed(self) -> int: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def presence_penalty(self) -> float: ...
    @property
    def frequency_penalty(self) -> float: ...
    @property
    def bias(self) -> list[tuple[int, float]]: ...
    @property
    def allowed(self) -> list[int] | None: ...
    @property
    def banned(self) -> list[list[int]]: ...
    @property
    def min_tokens(self) -> int: ...
    @property
    def logprobs(self) -> int | None: ...
    @property
    def constraint(self) -> int: ...

class _ModelPolicy(Protocol):
    @property
    def need(self) -> int: ...
    @property
    def pinned(self) -> bool: ...
    @property
    def keep_alive(self) -> float | None: ...
    @property
    def preload(self) -> bool: ...
    @property
    def drafter(self) -> int | None: ...
    @property
    def weight(self) -> float: ...
    @property
    def instances(self) -> int: ...
    @property
    def balance(self) -> Literal["round-robin", "least-loaded", "prefix"]: ...

class _Memory(Protocol):
    @property
    def when_full(self) -> Literal["evict", "wait", "fail"]: ...
    @property
    def wait_seconds(self) -> float: ...
    @property
    def patience_seconds(self) -> float: ...
    @property
    def min_resident_seconds(self) -> float: ...
    @property
    def soft_watermark(self) -> float: ...
    @property
    def hard_watermark(self) -> float: ...

_Reason: TypeAlias = Literal[
    "stop",
    "length",
    "abort",
    "expired",
    "error",
    "loaded",
    "context_length",
    "too_large",
    "unavailable",
]
_Phase: TypeAlias = Literal[
    "absent", "reserving", "loading", "resident", "draining", "evicting", "failed"
]
_Status: TypeAlias = tuple[_Phase, int, int, int, int, float | None]
"""(phase, bytes held, bytes needed, running, waiting, seconds until it leaves by itself)."""
_End: TypeAlias = tuple[_Reason, str, float, int, int, int, list[int], tuple[int, int]]
"""(reason, message, queued seconds, preemptions, cached prompt tokens, draft tokens, steps by
accepted drafts, draft tokens of the client's prediction verified and kept)."""

_Logprobs: TypeAlias = tuple[float, list[tuple[int, float]]]
"""(of the token, [(alternative, its logprob)])."""

def promised_speedup(
    target: tuple[list[tuple[int, float]], float],
    draft_model: tuple[list[tuple[int, float]], float],
    *,
    agreement: float,
    padded: bool,
) -> float:
    """How many times as fast as plain decoding one row would be with a draft model, at best, by the
    controller's own account.

    Costs are `step_cost` and `rect_cost` of `ModelShape`; a draft is kept with the chance
    `agreement`.
    """

@final
class Scheduler:
    """The engine. All methods may be called from any thread."""

    def __new__(
        cls,
        *,
        models: Sequence[_ModelPolicy],
        drafters: Sequence[int],
        limits: Sequence[tuple[Sequence[int], int]],
        memory_bytes: int,
        memory: _Memory,
        max_waiting: int,
        max_running: int,
        speculation: bool,
        max_draft: int,
        adaptive: bool,
        shared_suffix_bytes: int,
        suffix_dir: str | None,
        inter_token_ms: float,
        prefix_cache: bool,
        kv_dir: str | Path | None,
        kv_dir_bytes: int,
    ) -> Scheduler:
        """`drafters`: bytes that each needs; models name them by their place there, and the
        scheduler by their place behind the models. `limits`: models by their place, and how many
        requests of them together run at once."""

    def submit(
        self,
        *,
        model: int,
        prompt: list[int],
        max_tokens: int | None,
        stop_tokens: list[int],
        sampling: _Sampling,
        speculate: bool,
        max_draft: int | None,
        priority: int,
        prediction: list[int],
        cache_salt: str,
        keep_alive: float | None,
        harvest: int = 0,
    ) -> int:
        """Queue a request and return its id. It ends in exactly one event with an end.

        `max_tokens` None means: as many as the context and the KV memory allow; 0: the prompt is
        only read. `max_draft` is the
        most tokens drafted at once; None leaves it to the scheduler. One level of `priority` is
        worth 10 s of waiting; the lower, the sooner. `prediction` is the
        answer as the client expects it, or empty: it is drafted from, and changes no token. So are
        answers to earlier requests of the same `cache_salt`. Cached KV is shared with these alone.
        `keep_alive`: seconds that the model stays when idle, from now on; negative is for ever,
        None as before. `harvest` names what the runner gathers of the prompt's tokens, all of which
        are then computed, cached or not; 0 nothing.

        Raises QueueFullError, ClosedError, MemoryShortError, PromptTooLongError,
        PredictionTooLongError, RequestTooLargeError or ValueError; nothing is kept of a refused
        request. One for a model that is not in memory may be refused later, and one without a token
        if memory runs short: it then ends with `context_length`, `too_large` or `unavailable`.
        """

    def load(self, model: int, keep_alive: float | None) -> int:
        """Ask for a model, to stay that long when idle.

        The id ends in one event: `loaded`, `unavailable` or `abort`.

        Raises ClosedError or ValueError.
        """

    def unload(self, model: int) -> None:
        """Let a model go once no request runs in it; a pinned one stays."""

    def loaded(self, model: int, facts: Any, num_bytes: int) -> None:
        """A load is done; `facts` has the fields of `ModelShape`."""

    def drafter_loaded(
        self, drafter: int, costs: tuple[list[tuple[int, float]], float], num_bytes: int
    ) -> None:
        """A drafter's load is done; `costs` as `step_cost` and `rect_cost` of `ModelShape`."""

    def load_resized(self, model: int, num_bytes: int) -> None:
        """A load took nothing, as it needs more than was reserved."""

    def load_failed(self, model: int, message: str) -> None:
        """A load failed and left nothing behind."""

    def load_cancelled(self, model: int) -> None:
        """A load was broken off and left nothing behind."""

    def residency(self) -> list[_Status]:
        """Where every model stands, then every drafter, whose `running` are the models in memory
        that it drafts for. When one moves, `wake_fd` becomes readable."""

    def abort(self, request: int) -> None:
        """End a request early. May come at any time, twice, or after the end."""

    def expire(self, request: int) -> None:
        """End a request that has not begun to run; no effect on others. As safe as `abort`."""

    def abort_all(self) -> None:
        """End all requests early."""

    def close(self) -> None:
        """Refuse new requests; `run` returns once those accepted have ended."""

    def drain(self) -> list[tuple[int, list[int], list[_Logprobs], _End | None]]:
        """All events since the last call, oldest first: (request, tokens, logprobs, end).

        There is one entry of logprobs for each token, if the request asks for them.
        """

    def counters(self) -> dict[str, Any]:
        """Cumulative counts and gauges by name.

        `drafted_per_pos` and `accepted_per_pos` are lists, `drafters` is one of (drafter, draft
        tokens verified, kept).
        """

    def speculation(self, model: int) -> dict[str, Any]:
        """What speculation did for a model, and what its steps cost when it was loaded (or None).

        `drafters`: (name, draft tokens verified, kept). `positions`: (verified, kept) by place in
        the draft. `lens[n]`: rows given n drafts. `plain`, `drafting`: (steps, rows, tokens, ms) of
        steps that only decode, without and with drafts. `step_cost`: (tokens, ms); `rect_cost`: ms.
        """

    def run(self, runner: _Runner) -> None:
        """The engine thread's life: until closed and idle. Raises RuntimeError if it panicked."""

    @property
    def wake_fd(self) -> int:
        """Becomes readable when there are events; `drain` makes it unreadable again."""

    def check_room(self) -> None:
        """Raise QueueFullError, and count a refusal, if `submit` would; no effect otherwise."""

    @property
    def num_in_flight(self) -> int:
        """Requests accepted and not yet ended."""

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the engine thread's last sign of life."""
