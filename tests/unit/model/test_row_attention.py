"""Our attention over rows in place: used where it is right and faster, nowhere else."""

import math
from importlib.resources import files

import mlx.core as mx
import pytest

from mlxspec.model import row_attention

ON_CUDA = mx.cuda.is_available()
cuda_only = pytest.mark.skipif(not ON_CUDA, reason="needs an NVIDIA GPU")


def operands(rows: int, width: int, heads: int, kv_heads: int, dim: int) -> list[mx.array]:
    keys = mx.random.split(mx.random.key(7), 3)
    shapes = [(rows * width, heads, 1, dim), *[(rows, kv_heads, 256, dim)] * 2]
    return [
        mx.random.normal(shape, key=key).astype(mx.bfloat16)
        for shape, key in zip(shapes, keys, strict=True)
    ]


def test_the_kernels_text_is_installed_with_the_package() -> None:
    text = files("mlxspec.model").joinpath("cuda", "row_attention.cu").read_text("utf-8")
    assert "void row_attention_part(" in text
    assert "void row_attention_join(" in text


@pytest.mark.skipif(ON_CUDA, reason="for devices without CUDA")
def test_without_cuda_mlxs_own_attention_is_used() -> None:
    queries, keys, values = operands(2, 1, 4, 2, 64)
    assert not row_attention.suits(queries, keys, values, width=1)


def test_a_kernel_that_is_wrong_or_slower_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.DeviceType.gpu))
    verdicts = {(0.001, 2.0): True, (0.02, 2.0): False, (0.001, 0.9): False, (math.nan, 2.0): False}
    for measured, good in verdicts.items():
        monkeypatch.setattr(row_attention, "check", lambda *_, it=measured: it)
        row_attention.passes.cache_clear()
        assert row_attention.passes(4, 2, 64, mx.bfloat16) is good
    row_attention.passes.cache_clear()


def test_a_kernel_that_does_not_compile_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> tuple[float, float]:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(mx.cuda, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.DeviceType.gpu))
    monkeypatch.setattr(row_attention, "check", fail)
    row_attention.passes.cache_clear()
    assert not row_attention.passes(4, 2, 64, mx.bfloat16)
    row_attention.passes.cache_clear()


@cuda_only
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("width", [1, 3, 17])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (32, 8, 128), (4, 4, 128)])
def test_it_is_masked_attention(
    heads: int, kv_heads: int, dim: int, width: int, window: int | None
) -> None:
    rows, slot = 3, 1
    queries, keys, values = operands(4, width, heads, kv_heads, dim)
    queries = queries[: rows * width]
    starts = mx.array([0, 77, 200])
    positions = (starts[:, None] + mx.arange(width)).reshape(-1).astype(mx.int32)
    shape = row_attention.Shape(heads // kv_heads, width, kv_heads, rows, 256, window, slot)
    scale = 1 / math.sqrt(dim)
    ours = row_attention.attend(queries, keys, values, positions, shape=shape, scale=scale)

    seen = mx.arange(256) <= positions.reshape(rows, 1, width, 1)
    if window is not None:
        seen = seen & (mx.arange(256) > positions.reshape(rows, 1, width, 1) - window)
    rectangle = queries.reshape(rows, width, heads, dim).transpose(0, 2, 1, 3)
    exact = mx.fast.scaled_dot_product_attention(
        *(it.astype(mx.float32) for it in (rectangle, keys[slot:], values[slot:])),
        scale=scale,
        mask=seen,
    )
    exact = exact.transpose(0, 2, 1, 3).reshape(queries.shape)
    assert mx.abs(ours.astype(mx.float32) - exact).max().item() < 0.02
