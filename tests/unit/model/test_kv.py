"""Writing into slabs: every way of writing puts the same values at the same positions."""

import mlx.core as mx
import numpy as np
import pytest

from mlxspec.model.kv import KVStore, Rect, write
from mlxspec.model.kv_form import LayerShape
from mlxspec.speculative.plan import apply_kv_ops

SHAPE = LayerShape(num_heads=2, key_dim=4, value_dim=3, dtype=mx.float32)


@pytest.mark.parametrize(("slot", "rows"), [(0, 4), (1, 1), (1, 2)])
def test_a_rectangle_lands_at_its_positions_and_nowhere_else(slot: int, rows: int) -> None:
    width = 3
    starts = np.array([5, 0, 9, 2])[slot : slot + rows]
    positions = starts[:, None] + np.arange(width)
    slab = mx.zeros((4, 2, 16, 4))
    new = mx.random.normal((rows, 2, width, 4))
    rect = Rect(slab=0, slot=slot, rows=rows, width=width, first=0, view=16)
    index = mx.array(positions)[:, None, :, None]
    (array,) = write((slab,), rect, int(starts[0]), index, (new,))
    written = np.array(array)
    expected = np.zeros((4, 2, 16, 4), np.float32)
    for row in range(rows):
        expected[slot + row][:, positions[row]] = np.array(new)[row]
    assert (written == expected).all()


def test_a_row_ends_where_its_last_block_does() -> None:
    store = KVStore([SHAPE])
    store.create(0, 2, 11)
    assert [array.shape[2] for array in store.slabs[0].arrays()] == [16, 16]


def test_copying_a_row_keeps_its_first_tokens() -> None:
    store = KVStore([SHAPE])
    store.create(0, 2, 16)
    store.create(1, 1, 32)
    store.slabs[0].keys[0][0][1] = mx.random.normal((2, 16, 4))
    before = np.array(store.slabs[0].keys[0][0])
    store.copy((0, 1), (1, 0), 7)
    after = np.array(store.slabs[1].keys[0][0])
    assert (after[0, :, :7] == before[1, :, :7]).all()
    assert (after[0, :, 7:] == 0).all()


def test_copying_within_a_slab_allocates_no_second_slab() -> None:
    store = KVStore([LayerShape(num_heads=4, key_dim=64, value_dim=64, dtype=mx.float32)])
    store.create(0, 8, 4096)
    ((keys,),) = store.slabs[0].keys
    keys[2] = mx.random.normal((4, 4096, 64))
    mx.eval(store.slabs[0].arrays())
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    store.copy((0, 2), (0, 5), 1000)
    assert mx.get_peak_memory() - before < 0.2 * keys.nbytes
    assert mx.array_equal(keys[5, :, :1000], keys[2, :, :1000])
    assert not keys[5, :, 1000:].any()


def test_bytes_per_token_count_keys_and_values_of_all_layers() -> None:
    assert KVStore([SHAPE, SHAPE]).bytes_per_token == 2 * 2 * (4 + 3) * 4


def test_writing_in_place_allocates_no_second_slab() -> None:
    slab = mx.zeros((8, 4, 4096, 64))
    mx.eval(slab)
    positions = mx.broadcast_to(mx.arange(100, 105), (8, 5))[:, None, :, None]
    cases = [
        (Rect(0, 0, 8, 5, 0, 128), positions, mx.ones((8, 4, 5, 64))),
        (Rect(0, 3, 1, 5, 0, 128), positions[:1], mx.ones((1, 4, 5, 64))),
        (Rect(0, 2, 3, 5, 0, 128), positions[:3], mx.ones((3, 4, 5, 64))),
    ]
    for rect, index, new in cases:
        mx.eval(index, new)
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        (slab,) = write((slab,), rect, 100, index, (new,))
        mx.eval(slab)
        assert mx.get_peak_memory() - before < slab.nbytes // 10, rect


def test_what_is_to_be_dropped_is_dropped_though_a_change_before_it_fails() -> None:
    store = KVStore([SHAPE])
    store.create(0, 1, 16)
    changes = np.array(
        [[2, 0, 0, 99, 0, 4], [0, 5, 1, 16, 0, 0], [1, 0, 0, 0, 0, 0], [1, 77, 0, 0, 0, 0]],
        np.uint32,
    )
    with pytest.raises(KeyError):
        apply_kv_ops(store, changes)
    assert store.slabs == {}
