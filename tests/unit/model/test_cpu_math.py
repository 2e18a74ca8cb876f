"""Our exponentials on the CPU say what MLX's own say, where they are used."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama
from mlx_lm.models.activations import swiglu as mlx_lm_swiglu

from mlxspec.model import cpu_math

pytestmark = pytest.mark.skipif(
    mx.default_device().type != mx.DeviceType.cpu, reason="for MLX on CPU"
)


def test_exp_is_exact_to_a_few_ulp_over_its_range() -> None:
    x = np.linspace(-85.9, 86, 200_001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    error = np.abs(np.array(cpu_math.exp(mx.array(x))) / exact - 1)
    assert error.max() < 2e-7


def test_exp_of_what_is_masked_is_zero() -> None:
    masked = mx.array([-mx.inf, -1e30, -87.0])
    assert cpu_math.exp(masked).tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [512, 49_152, 1_000])
def test_argmax_is_the_first_of_the_largest(size: int) -> None:
    x = mx.random.randint(0, 40, (33, size)).astype(mx.float32)
    x[0] = -mx.inf
    x[1, 7] = x[1, size - 1] = 40
    x[2, size - 1] = 40
    assert cpu_math.argmax(x).tolist() == np.argmax(np.array(x), axis=-1).tolist()


def test_swiglu_is_mlx_lms_at_any_gate() -> None:
    gate = mx.concatenate([mx.linspace(-60, 60, 5001), mx.array([-1e4, -90.0, 0.0, 90.0, 1e4])])
    x = mx.random.normal(gate.shape, key=mx.random.key(1))
    ours, theirs = cpu_math.swiglu(gate, x), mlx_lm_swiglu(gate, x)
    assert mx.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("rows", "heads", "kv_heads", "width"), [(1, 9, 3, 40), (4, 4, 4, 9)])
def test_attend_is_mlxs_attention_and_blind_to_what_is_masked(
    rows: int, heads: int, kv_heads: int, width: int
) -> None:
    view, dim, keys = 64, 16, mx.random.split(mx.random.key(2), 3)
    q = mx.random.normal((rows, heads, width, dim), key=keys[0])
    k, v = (mx.random.normal((rows, kv_heads, view, dim), key=key) for key in keys[1:])
    mask = (mx.arange(view) <= 10 + mx.arange(width)[:, None])[None, None]
    mask = mx.broadcast_to(mask, (rows, 1, width, view))
    junk = mx.where(mx.arange(view) > 10 + width, 3e18, 0)[:, None]
    theirs = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask=mask)
    ours = cpu_math.attend(q, k + junk, v - junk, 0.25, mask)
    assert mx.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_only_float32_is_routed_to_our_swiglu() -> None:
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=32,
        num_attention_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=32,
    )
    cpu_math.route_swiglu(llama.Model(args))
    routed = llama.swiglu
    cpu_math.route_swiglu(llama.Model(args))
    assert llama.swiglu is routed
    half = mx.ones((4,), mx.float16)
    assert routed(half, half).dtype == mx.float16
