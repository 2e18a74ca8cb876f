"""What a draft model writes in one step: drafts in their places, KV in place."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxspec.model.forward import Network
from mlxspec.model.kv import KVStore, Rect
from mlxspec.model.load import load
from mlxspec.speculative.draft_model import DraftModel
from mlxspec.speculative.plan import DraftPlan, Ints, Laid, Samplers, StepPlan
from mlxspec.speculative.step import Target, run_step
from mlxspec.speculative.words import SameWords

SLAB = 0
ROUNDS = 3


def words(*values: int) -> Ints:
    return np.array(values, np.uint32)


def drafted_for(folder: Path, drafts: Path, *, capacity: int = 64, slots: int = 1) -> Target:
    target, model = load(folder, mx.float32), load(drafts, mx.float32)
    network = Network(model.model, model.windows, first_layer=len(target.layers))
    drafter = DraftModel(network, model.layers, SameWords(model.vocab, target.vocab))
    store = KVStore([*target.layers, *drafter.layers])
    store.create(SLAB, slots, capacity)
    return Target(Network(target.model, target.windows), store, drafter)


def plan(prompt: list[int], num_drafts: int) -> StepPlan:
    """Both models read the prompt; the draft model drafts behind it, and the target verifies."""
    size = len(prompt)
    width = size + num_drafts
    positions = np.arange(width, dtype=np.uint32)
    read = Laid([Rect(SLAB, 0, 1, size, 0, 32)], words(*prompt), positions[:size])
    draft = DraftPlan(
        read=read,
        round=Laid([Rect(SLAB, 0, 1, 1, 0, 32)], words(0), words(size)),
        sampler=words(0),
        num_drafts=words(num_drafts),
        read_at=words(size - 1),
        round_at=words(0),
        num_rounds=ROUNDS,
    )
    return StepPlan(
        model=0,
        kv_ops=np.zeros((0, 6), np.uint32),
        rects=[Rect(SLAB, 0, 1, width, 0, 32)],
        tokens=words(*prompt, *[0] * num_drafts),
        positions=positions,
        samplers=Samplers.greedy(words(0), words(num_drafts)),
        sampled=positions[size - 1 :],
        noise_keys=np.zeros((num_drafts + 1, 2), np.uint32),
        draft=draft,
    )


@pytest.mark.parametrize("num_drafts", [1, 2, 3])
def test_a_copys_drafts_are_all_kept_and_are_the_targets_tokens(
    tiny_folder: Path, num_drafts: int
) -> None:
    answer = run_step(drafted_for(tiny_folder, tiny_folder), plan([3, 1, 4, 1, 5], num_drafts))
    plain = run_step(drafted_for(tiny_folder, tiny_folder), plan([3, 1, 4, 1, 5], 3))
    assert answer is not None
    assert plain is not None
    assert answer.tolist() == [num_drafts, *plain.tolist()[1 : num_drafts + 2]]


def test_a_row_may_be_read_without_being_drafted_for(tiny_folder: Path) -> None:
    step = plan([3, 1, 4], 0)
    assert step.draft is not None
    none = words()
    only_read = step.draft._replace(
        sampler=none, num_drafts=none, read_at=none, round_at=none, num_rounds=0
    )
    target = drafted_for(tiny_folder, tiny_folder)
    assert run_step(target, step._replace(draft=only_read)) is not None
    layers = len(target.store.layers) // 2
    keys = target.store.slabs[SLAB].keys
    assert mx.array_equal(keys[0][0], keys[layers][0]), "the copy reads what the target reads"


@pytest.mark.parametrize("vocab", [40, 48, 60])
def test_logits_are_brought_to_the_targets_vocabulary(tiny_folder: Path, vocab: int) -> None:
    """Models pad their logits as they like; noise is drawn for a vocabulary as a whole."""
    seen: list[mx.array] = []

    def draw(logits: mx.array, nth: int) -> mx.array:
        seen.append(logits)
        return mx.argmax(logits, axis=-1).astype(mx.uint32)

    target = drafted_for(tiny_folder, tiny_folder)
    loaded = load(tiny_folder, mx.float32)
    network = Network(loaded.model, loaded.windows)
    drafter = DraftModel(network, loaded.layers, SameWords(48, vocab))
    step = plan([3, 1, 4], 3)
    assert step.draft is not None
    drafts = drafter.draft(target.store.slabs, step.draft, draw)
    assert drafts is not None
    assert drafts.shape == (1, ROUNDS)
    assert mx.all(drafts < min(vocab, 48)).item()
    assert [logits.shape for logits in seen] == [(1, vocab)] * ROUNDS


def test_drafting_allocates_no_second_copy_of_the_rows(tiny_folder: Path) -> None:
    target = drafted_for(tiny_folder, tiny_folder, capacity=16384, slots=8)
    arrays = target.store.slabs[SLAB].arrays()
    mx.eval(arrays)
    size = sum(array.nbytes for array in arrays)
    del arrays
    for _ in range(3):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        run_step(target, plan([3, 1, 4, 1, 5], 3))
        assert mx.get_peak_memory() - before < size // 10
