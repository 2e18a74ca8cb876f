"""The scheduler and the runner without text or HTTP: token ids in, token ids out."""

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlxspec._scheduler import Scheduler
from mlxspec.config import Config, KVConfig, SpeculationConfig
from mlxspec.engine.memory import plan_memory
from mlxspec.engine.runner import Runner
from mlxspec.engine.sampling import TokenSampling
from mlxspec.model.backend import backend_facts
from mlxspec.model_tables import ModelConfig


class Answer(NamedTuple):
    """What one request brought."""

    tokens: list[int]
    reason: str
    preemptions: int
    cached_tokens: int
    num_draft_tokens: int
    accepted: list[int]
    predicted: tuple[int, int]
    logprobs: list[tuple[float, list[tuple[int, float]]]]


class TokenEngine:
    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._answers: dict[int, Answer] = {}
        self._tokens: dict[int, list[int]] = {}
        self._logprobs: dict[int, list[tuple[float, list[tuple[int, float]]]]] = {}

    def submit(self, prompt: list[int], max_tokens: int = 24, **options: Any) -> int:
        """Options are those of `TokenSampling`, or others of `Scheduler.submit`."""
        names = TokenSampling.__struct_fields__
        sampling = {name: options.pop(name) for name in names if name in options}
        defaults: dict[str, Any] = {"stop_tokens": [], "speculate": True}
        defaults |= {"prediction": [], "cache_salt": "", "max_draft": None, "priority": 0}
        defaults |= {"keep_alive": None}
        request = self.scheduler.submit(
            model=0,
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=TokenSampling(**sampling),
            **{**defaults, **options},
        )
        self._tokens[request] = []
        self._logprobs[request] = []
        return request

    def pump(self) -> None:
        """Wait for news and take it in."""
        ready, _, _ = select.select([self.scheduler.wake_fd], [], [], 60)
        assert ready, "no news from the engine for a minute"
        for request, tokens, logprobs, end in self.scheduler.drain():
            self._tokens[request].extend(tokens)
            self._logprobs[request].extend(logprobs)
            if end is not None:
                assert request not in self._answers, "a second end"
                reason, _, _, *measured = end
                self._answers[request] = Answer(
                    self._tokens[request], reason, *measured, self._logprobs[request]
                )

    def await_drafter(self) -> None:
        """Until the draft model has come, if it is on its way."""
        while any(status[0] == "loading" for status in self.scheduler.residency()):
            time.sleep(0.002)

    def num_tokens(self, request: int) -> int:
        return len(self._tokens[request])

    def result(self, request: int) -> Answer:
        while request not in self._answers:
            self.pump()
        return self._answers[request]

    def generate(self, prompt: list[int], max_tokens: int = 24, **options: Any) -> list[int]:
        return self.result(self.submit(prompt, max_tokens, **options)).tokens


@contextmanager
def token_engine(
    folder: Path,
    *,
    draft_model: Path | None = None,
    kv_bits: Literal[4, 8] | None = None,
    kv_bytes: int = 64 << 20,
    max_running: int = 16,
    synthetic: float | None = None,
    kv_dir: Path | None = None,
    kv_dir_bytes: int = 1 << 30,
    acceptance: Literal["shared-noise", "rejection"] = "shared-noise",
    keep_costs: bool = False,
    **options: Any,
) -> Iterator[TokenEngine]:
    """A running engine for one model; ends it, and checks that only cached KV is left."""
    drafts = None if draft_model is None else str(draft_model)
    config = Config(
        models=(ModelConfig(id="model", source=str(folder), draft_model=drafts, kv_bits=kv_bits),),
        kv=KVConfig(memory_bytes=kv_bytes, folder=None if kv_dir is None else str(kv_dir)),
        speculation=SpeculationConfig(
            synthetic_acceptance=synthetic, acceptance=acceptance, keep_costs=keep_costs
        ),
    )
    arguments: dict[str, Any] = {
        "max_waiting": 64,
        "speculation": True,
        "max_draft": 16,
        "adaptive": True,
        "shared_suffix_bytes": 1 << 20,
        "suffix_dir": None,
        "inter_token_ms": 1e3,
        "prefix_cache": True,
        "kv_dir": kv_dir,
        "kv_dir_bytes": kv_dir_bytes,
        **options,
    }
    plan = plan_memory(config, backend_facts())
    scheduler = Scheduler(
        models=plan.models,
        drafters=[drafter.need for drafter in plan.drafters],
        limits=plan.limits,
        memory_bytes=plan.budget,
        memory=config.memory,
        max_running=max_running,
        **arguments,
    )
    runner = Runner(config, plan, scheduler)
    thread = threading.Thread(target=runner.serve, args=(scheduler,), daemon=True)
    thread.start()
    engine = TokenEngine(scheduler, runner)
    engine.generate([1], max_tokens=1)
    engine.await_drafter()
    yield engine
    scheduler.close()
    scheduler.abort_all()
    thread.join(30)
    runner.close()
    assert not thread.is_alive()
    assert scheduler.counters()["kv_blocks_used"] == scheduler.counters()["kv_blocks_cached"]
    assert scheduler.counters()["integrity_errors"] == 0
    if not arguments["prefix_cache"]:
        assert runner.num_slabs(0) == 0, "slabs outlive their requests"
