"""Rows that are lines of a batch, and rows that stand alone: each keeps its own state."""

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, KVCache

from mlxspec.model.state import Caches, StateSlab


def row(value: int) -> Caches:
    """A recurrent layer and an attention layer after `value` tokens, all of this value."""
    recurrent, attention = ArraysCache(1), KVCache()
    recurrent[0] = mx.full((1, 2), value)
    keys = mx.full((1, 1, value, 2), value)
    attention.update_and_fetch(keys, keys)
    return [recurrent, attention]


def values(batch: Caches) -> list[int]:
    recurrent: list[int] = batch[0][0][:, 0].tolist()
    newest: list[int] = batch[1].keys[:, 0, batch[1].size() - 1, 0].tolist()
    assert recurrent == newest
    return recurrent


@pytest.fixture
def slab() -> StateSlab:
    made = StateSlab()
    for slot in range(3):
        made.put(slot, row(slot + 5))
    return made


def test_a_batch_has_its_rows_in_the_order_asked_for(slab: StateSlab) -> None:
    assert values(slab.batch([0, 2])) == [5, 7]
    assert values(slab.batch([2, 0, 1])) == [7, 5, 6]


def test_a_batch_that_is_asked_for_again_is_the_same_one(slab: StateSlab) -> None:
    assert slab.batch([0, 1]) is slab.batch([0, 1])


def test_a_new_row_in_a_slot_of_the_batch_is_the_one_that_is_found(slab: StateSlab) -> None:
    slab.batch([0, 1, 2])
    slab.put(1, row(9))
    assert values(slab.batch([0, 1, 2])) == [5, 9, 7]
    assert values(slab.batch([0, 1])) == [5, 9]


def test_a_row_taken_out_leaves_the_others_and_comes_back_changed(slab: StateSlab) -> None:
    slab.batch([0, 1, 2])
    recurrent, attention = slab.take(1)
    assert (recurrent[0][0, 0].item(), attention.offset) == (6, 6)
    with pytest.raises(ValueError, match="not in list"):
        slab.take(1)
    slab.put(1, row(9))
    assert values(slab.batch([0, 1, 2])) == [5, 9, 7]
