"""Our attention over rows in place: used where it is right and faster, nowhere else."""

import math
from collections.abc import Iterator
from importlib.resources import files

import mlx.core as mx
import pytest
from structlog.testing import capture_logs

from mlxspec.model import row_attention
from mlxspec.model.kv import Rect
from mlxspec.model.row_attention import CASES, Case, Shape, Trial
from mlxspec.model.row_kernels import CUDA, METAL, Dialect, dialect

HAS_KERNELS = dialect() is not None
MODEL = (4, 2, 64, mx.bfloat16)
on_a_gpu = pytest.mark.skipif(not HAS_KERNELS, reason="needs a GPU")


@pytest.fixture(autouse=True)
def untried() -> Iterator[None]:
    row_attention.faster.cache_clear()
    yield
    row_attention.faster.cache_clear()


@pytest.fixture(params=[CUDA, METAL], ids=["cuda", "metal"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Dialect:
    monkeypatch.setattr(row_attention, "dialect", lambda: request.param)
    found: Dialect = request.param
    return found


def operands(rows: int, width: int, heads: int, kv_heads: int, dim: int) -> list[mx.array]:
    keys = mx.random.split(mx.random.key(7), 3)
    shapes = [(rows * width, heads, 1, dim), *[(rows, kv_heads, 256, dim)] * 2]
    return [
        mx.random.normal(shape, key=key).astype(mx.bfloat16)
        for shape, key in zip(shapes, keys, strict=True)
    ]


def rect(rows: int, width: int) -> Rect:
    return Rect(slab=0, slot=0, rows=rows, width=width, first=0, view=256)


def answer_all(monkeypatch: pytest.MonkeyPatch, trials: dict[Case, Trial]) -> None:
    monkeypatch.setattr(row_attention, "check", lambda case, *_: trials[case])


@pytest.mark.parametrize("name", ["cuda.h", "metal.h", "row_attention.h"])
def test_the_kernels_texts_are_installed_with_the_package(name: str) -> None:
    text = files("mlxspec.model").joinpath("kernels", name).read_text("utf-8")
    assert "namespace row_attention {" in text


@pytest.mark.skipif(HAS_KERNELS, reason="for devices without kernels")
def test_without_a_gpu_mlxs_own_attention_is_used() -> None:
    queries, keys, values = operands(2, 1, 4, 2, 64)
    assert not row_attention.suits(queries, keys, values, rect(2, 1))


@pytest.mark.usefixtures("device")
def test_a_kernel_that_is_wrong_or_slower_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = {(0.001, 2.0): True, (0.02, 2.0): False, (0.001, 0.9): False, (math.nan, 2.0): False}
    for measured, good in verdicts.items():
        answer_all(monkeypatch, dict.fromkeys(CASES, Trial(*measured)))
        row_attention.faster.cache_clear()
        assert row_attention.faster(*MODEL) == (frozenset(CASES) if good else frozenset())


@pytest.mark.usefixtures("device")
def test_a_kernel_is_used_for_the_rows_and_tokens_that_it_is_faster_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = {Case(1, 1), Case(8, 33)}
    trials = {case: Trial(0.001, 0.9 if case in slow else 2.0) for case in CASES}
    answer_all(monkeypatch, trials)
    queries, keys, values = operands(1, 1, 4, 2, 64)
    with capture_logs() as logs:
        served = {
            (rows, width): row_attention.suits(queries, keys, values, rect(rows, width))
            for rows in (1, 2, 32)
            for width in (1, 2, 17, 18, 33, 34)
        }
    refused = {(1, 1), (2, 18), (2, 33), (32, 18), (32, 33), (1, 34), (2, 34), (32, 34)}
    assert {it for it, is_served in served.items() if not is_served} == refused
    assert [it["event"] for it in logs] == ["row attention is on where it is faster"]


@pytest.mark.usefixtures("device")
def test_a_kernel_that_is_wrong_somewhere_is_used_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = dict.fromkeys(CASES, Trial(0.001, 2.0)) | {Case(8, 17): Trial(0.5, 2.0)}
    answer_all(monkeypatch, trials)
    assert row_attention.faster(*MODEL) == frozenset()


@pytest.mark.skipif(HAS_KERNELS, reason="for devices that cannot run kernels")
def test_a_kernel_that_does_not_run_is_not_used_and_said_once(device: Dialect) -> None:
    queries, keys, values = operands(2, 1, 4, 2, 64)
    with capture_logs() as logs:
        for _ in range(3):
            assert not row_attention.suits(queries, keys, values, rect(2, 1))
    assert [it["event"] for it in logs] == ["row attention is off: it does not run here"]
    backend = {"cuda": "CUDA", "metal": "Metal"}[device.name]
    assert backend in logs[0]["error"]


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("failure", [RuntimeError, ValueError, TypeError, OSError, MemoryError])
def test_whatever_a_trial_raises_mlxs_own_attention_is_used(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    def fail(*_: object) -> Trial:
        raise failure("no compiler here")

    monkeypatch.setattr(row_attention, "check", fail)
    assert row_attention.faster(*MODEL) == frozenset()


@on_a_gpu
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
    shape = Shape(heads // kv_heads, width, kv_heads, rows, 256, window, slot)
    scale = 1 / math.sqrt(dim)
    ours = row_attention.attend(queries, keys, values, positions, shape=shape, scale=scale)
    wide = [it.astype(mx.float32) for it in (queries, keys[slot:], values[slot:])]
    exact = row_attention.masked(wide[0], wide[1], wide[2], positions, scale, window)
    assert mx.abs(ours.astype(mx.float32) - exact).max().item() < 0.02
