"""One packed step against mlx-lm's own forward, sequence by sequence."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlxspec.model.forward import Network
from mlxspec.model.kv import KVStore, Rect
from mlxspec.model.load import load
from mlxspec.speculative.plan import Ints, Samplers, StepPlan
from mlxspec.speculative.step import Target, run_step

SLAB = 0


@pytest.fixture
def target(tiny_folder: Path) -> Target:
    loaded = load(tiny_folder, mx.float32)
    target = Target(Network(loaded.model, loaded.windows), KVStore(loaded.layers))
    target.store.create(SLAB, 3, 64)
    return target


def words(*values: int) -> Ints:
    return np.array(values, np.uint32)


def plan(
    rects: list[Rect], tokens: Ints, positions: Ints, sampled: Ints, num_drafts: list[int]
) -> StepPlan:
    """A greedy step; `sampled` lists each sampling row's last known token and its drafts."""
    count = len(num_drafts)
    first = np.cumsum([0, *(drafts + 1 for drafts in num_drafts)])[:count].astype(np.uint32)
    samplers = Samplers.greedy(first, words(*num_drafts))
    no_ops, no_keys = np.zeros((0, 6), np.uint32), np.zeros((len(sampled), 2), np.uint32)
    return StepPlan(0, no_ops, rects, tokens, positions, samplers, sampled, no_keys)


def prefill(target: Target, slot: int, tokens: list[int]) -> list[int]:
    """Compute one row's tokens; returns the answer for its last one."""
    size = len(tokens)
    answer = run_step(
        target,
        plan(
            [Rect(SLAB, slot, 1, size, 0, size)],
            words(*tokens),
            np.arange(size, dtype=np.uint32),
            words(size - 1),
            [0],
        ),
    )
    assert answer is not None
    result: list[int] = answer.tolist()
    return result


def greedy(target: Target, tokens: list[int], count: int) -> list[int]:
    """mlx-lm's own continuation."""
    caches = make_prompt_cache(target.network.model)
    made: list[int] = []
    pending = mx.array([tokens])
    for _ in range(count):
        token = int(mx.argmax(target.network.model(pending, cache=caches)[0, -1]).item())
        made.append(token)
        pending = mx.array([[token]])
    return made


def test_rows_of_different_lengths_and_drafts_share_one_step(target: Target) -> None:
    prompts = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1], [8, 8, 8, 8, 8]]
    expected = [greedy(target, prompt, 4) for prompt in prompts]
    for slot, prompt in enumerate(prompts):
        assert prefill(target, slot, prompt) == [0, expected[slot][0]]
    right, wrong = expected[1][1], (expected[1][2] + 1) % 48
    starts = [len(prompt) for prompt in prompts]
    # Three rows by one token, then the drafts of the middle row on their own.
    answer = run_step(
        target,
        plan(
            [Rect(SLAB, 0, 3, 1, 0, 32), Rect(SLAB, 1, 1, 2, 3, 16)],
            words(*(made[0] for made in expected), right, wrong),
            words(*starts, starts[1] + 1, starts[1] + 2),
            words(0, 1, 3, 4, 2),
            [0, 2, 0],
        ),
    )
    assert answer is not None
    kept, tokens = answer.tolist()[:3], answer.tolist()[3:]
    assert kept == [0, 1, 0]
    assert tokens[0] == expected[0][1]
    assert tokens[1:3] == expected[1][1:3]
    assert tokens[4] == expected[2][1]


def test_a_prefill_chunk_samples_nothing_and_is_continued(target: Target) -> None:
    prompt = [5, 6, 7, 8, 9, 10]
    chunk = plan([Rect(SLAB, 2, 1, 4, 0, 4)], words(*prompt[:4]), words(0, 1, 2, 3), words(), [])
    assert run_step(target, chunk) is None
    rest = plan([Rect(SLAB, 2, 1, 2, 0, 6)], words(*prompt[4:]), words(4, 5), words(1), [0])
    answer = run_step(target, rest)
    assert answer is not None
    assert answer.tolist() == [0, greedy(target, prompt, 1)[0]]


def test_a_step_allocates_no_second_copy_of_the_rows(target: Target) -> None:
    target.store.create(1, 8, 16384)
    mx.eval(target.store.slabs[1].arrays())
    size = sum(array.nbytes for array in target.store.slabs[1].arrays())
    rects = [Rect(1, 0, 8, 1, 0, 32), Rect(1, 3, 1, 4, 8, 32)]
    positions = words(*[9] * 8, 10, 11, 12, 13)
    step = plan(rects, words(*range(12)), positions, words(*range(8)), [0] * 8)
    for _ in range(3):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        run_step(target, step)
        assert mx.get_peak_memory() - before < size // 10
