"""Quantised keys and values: mlx-lm's own numbers, in the bytes that are counted for them."""

import mlx.core as mx
import pytest
from mlx_lm.models.cache import QuantizedKVCache

from mlxspec.errors import ModelImportError
from mlxspec.model.kv import KVStore, Rect, write
from mlxspec.model.kv_form import LayerShape, decode, encode, quantised

LAYER = LayerShape(num_heads=2, key_dim=128, value_dim=64, dtype=mx.float32)


@pytest.mark.parametrize("bits", [8, 4])
def test_numbers_are_rounded_as_mlx_lm_rounds_them(bits: int) -> None:
    (layer,) = quantised([LAYER], bits)
    assert layer.groups is not None
    numbers = mx.random.normal((1, 2, 5, 128))
    cache = QuantizedKVCache(group_size=layer.groups.size, bits=bits)
    theirs, _ = cache.update_and_fetch(numbers, numbers)
    ours = encode(numbers, layer.groups)
    assert all(mx.array_equal(a, b[:, :, :5]) for a, b in zip(ours, theirs, strict=True))
    step = (numbers.max() - numbers.min()) / (2**bits - 1)
    assert mx.abs(decode(ours, layer.groups) - numbers).max() < step


@pytest.mark.parametrize(("bits", "share"), [(None, 1.0), (8, 9 / 32), (4, 5 / 32)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_bytes_of_a_token_are_those_that_its_arrays_take(
    bits: int | None, share: float, dtype: mx.Dtype
) -> None:
    layers = quantised([LAYER._replace(dtype=dtype)] * 2, bits)
    store = KVStore(layers)
    store.create(0, 3, 32)
    held = sum(array.nbytes for array in store.slabs[0].arrays())
    assert store.bytes_per_token * 3 * 32 == held
    if dtype == mx.float32:
        assert held == KVStore([LAYER] * 2).bytes_per_token * 3 * 32 * share


def test_heads_that_have_no_whole_groups_are_refused() -> None:
    assert quantised([LAYER._replace(key_dim=96)], 8)[0].groups == (8, 32)
    with pytest.raises(ModelImportError, match="heads of 80 and 64 cannot be kept in 4 bits"):
        quantised([LAYER, LAYER._replace(key_dim=80)], 4)


@pytest.mark.parametrize("bits", [8, 4])
def test_fresh_rows_are_finite_and_writes_land_at_their_positions(bits: int) -> None:
    (layer,) = quantised([LAYER], bits)
    store = KVStore([layer])
    store.create(0, 4, 32)
    (fresh,) = store.slabs[0].keys
    assert not decode(fresh, layer.groups).any()
    numbers = mx.random.normal((4, 2, 3, 128))
    positions = mx.array([[5, 6, 7], [0, 1, 2], [9, 10, 11], [2, 3, 4]])
    new = encode(numbers, layer.groups)
    written = write(fresh, Rect(0, 0, 4, 3, 0, 32), 5, positions[:, None, :, None], new)
    expected = decode(new, layer.groups)
    found = decode(written, layer.groups)
    for row in range(4):
        assert mx.array_equal(found[row][:, positions[row]], expected[row])
    assert mx.sum(found != 0) == mx.sum(expected != 0)
