"""Steps that raise at random, on a real model: each request ends once, and the engine serves on.

In CI 2,000 steps, at full size 100,000; one in a hundred fails.
"""

import random
import time
from pathlib import Path

import pytest
from token_engine import TokenEngine, token_engine

from mlxspec.speculative import step

ERRORS = [
    ValueError("shape"),
    RuntimeError("[METAL] out of memory"),
    MemoryError("host"),
    KeyboardInterrupt(),
]
SERVE_ON_SECONDS = 0.1
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def warm(engine: TokenEngine) -> list[int]:
    engine.generate(PROMPT)
    return engine.generate(PROMPT)


def test_a_failing_step_loses_its_batch_alone_and_nothing_else(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    num_steps = 100_000 if request.config.getoption("--full") else 2_000
    rng, run, steps, failures = random.Random(5), step.run_step, [0], [0]

    def flaky(*arguments: object) -> object:
        steps[0] += 1
        if rng.random() < 0.01:
            failures[0] += 1
            raise rng.choice(ERRORS)
        return run(*arguments)  # type: ignore[arg-type]

    with token_engine(tiny_folder) as engine:
        alone = warm(engine)
        monkeypatch.setattr("mlxspec.engine.runner.run_step", flaky)
        while steps[0] < num_steps:
            ids = [engine.submit(PROMPT) for _ in range(3)]
            answers = [engine.result(it) for it in ids]
            assert all(it.reason == "error" or it.tokens == alone for it in answers)
        monkeypatch.setattr("mlxspec.engine.runner.run_step", run)
        assert failures[0] > num_steps / 200
        assert engine.scheduler.counters()["step_errors"] == failures[0]
        assert engine.generate(PROMPT) == alone


def test_after_a_failed_step_the_next_request_is_served_at_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with token_engine(tiny_folder) as engine:
        alone = warm(engine)
        took = []
        for _ in range(5):
            with monkeypatch.context() as fault:
                fault.setattr("mlxspec.engine.runner.run_step", _raise)
                assert engine.result(engine.submit(PROMPT)).reason == "error"
            start = time.monotonic()
            first = engine.submit(PROMPT)
            while engine.num_tokens(first) == 0:
                engine.pump()
            took.append(time.monotonic() - start)
            assert engine.result(first).tokens == alone
        assert min(took) < SERVE_ON_SECONDS, "and a busy machine does not delay each of them"


def _raise(*_: object) -> None:
    raise RuntimeError("[METAL] command buffer failed")
