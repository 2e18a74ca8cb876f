"""What one step costs, ours beside mlx-lm's own forward, interleaved in one run.

    python benches/step.py                      # the demo model
    python benches/step.py --model random-8b    # the shape of Llama-3-8B with random weights

Per (rows x new tokens): milliseconds of mlx-lm's model with its own KVCache, and of our step: its
rows together, the same traced, that with MLX's own attention only, and every row on its own. Our
rows have twice the room that they use, as they grow by doubling. Ours includes drawing tokens and
counting kept drafts; mlx-lm's includes the argmax. Every figure is the median over the rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from mlxspec.model.backend import backend_facts, prepare

prepare()

import mlx.core as mx  # noqa: E402 - after BLAS
from mlx_lm.models import llama  # noqa: E402
from mlx_lm.models.cache import make_prompt_cache  # noqa: E402

from mlxspec.config import cache_dir  # noqa: E402
from mlxspec.model import row_attention  # noqa: E402
from mlxspec.model.forward import CompiledForward, Network  # noqa: E402
from mlxspec.model.kv import KVStore  # noqa: E402
from mlxspec.model.load import LoadedModel, adopt, load  # noqa: E402
from mlxspec.speculative.calibrate import CONTEXT, SLAB, scratch_plan  # noqa: E402
from mlxspec.speculative.step import Target, run_step  # noqa: E402

SHAPES = [
    (1, 1),
    (1, 2),
    (1, 5),
    (1, 9),
    (1, 17),
    (4, 1),
    (8, 1),
    (8, 5),
    (16, 1),
    (32, 1),
    (32, 5),
]

COLUMNS = ("mlx-lm", "ours", "traced", "stock", "apart")

LLAMA_8B = llama.ModelArgs(
    model_type="llama",
    hidden_size=4096,
    num_hidden_layers=32,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    rms_norm_eps=1e-5,
    vocab_size=128256,
    rope_theta=500000.0,
    max_position_embeddings=8192,
    tie_word_embeddings=False,
)


def random_8b() -> LoadedModel:
    model = llama.Model(LLAMA_8B)
    model.set_dtype(mx.bfloat16)
    return adopt(model, 8192)


def mlx_lm_step(loaded: LoadedModel, rows: int, width: int, context: int) -> Callable[[], None]:
    caches = make_prompt_cache(loaded.model)
    for _ in range(context // CONTEXT):
        mx.eval(loaded.model(mx.zeros((rows, CONTEXT), mx.uint32), cache=caches))
    tokens = mx.zeros((rows, width), mx.uint32)

    def step() -> None:
        mx.eval(mx.argmax(loaded.model(tokens, cache=caches), axis=-1))
        for cache in caches:
            cache.trim(width)

    return step


def our_step(
    target: Target, rows: int, width: int, context: int, *, apart: bool = False
) -> Callable[[], None]:
    runs = [(slot, 1) for slot in range(rows)] if apart else [(0, rows)]
    plan = scratch_plan(runs, width, context)
    return lambda: run_step(target, plan)


def with_stock_attention(step: Callable[[], None]) -> Callable[[], None]:
    """The same step, with MLX's own attention where ours would run."""

    def stock_step() -> None:
        with patch.object(row_attention, "suits", lambda *_: False):
            step()

    return stock_step


def timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="demo, a model folder, or random-8b")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--context", type=int, default=CONTEXT, help="a multiple of 128")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = backend_facts()
    if options.model == "random-8b":
        loaded = random_8b()
    else:
        stored = cache_dir() / "models" / options.model
        folder = stored if stored.exists() else Path(options.model)
        loaded = load(folder, mx.float32 if device.kind == "cpu" else None)
    target = Target(Network(loaded.model, loaded.windows), KVStore(loaded.layers))
    traced = Target(Network(loaded.model, loaded.windows), target.store)
    traced.network.compiled = CompiledForward(traced.network, padded=True)
    stock = Target(Network(loaded.model, loaded.windows), target.store)
    stock.network.compiled = CompiledForward(stock.network, padded=True)

    context = options.context
    print(f"{device.device_name}, {options.model}, {context} tokens of context, ms")
    print(f"{'rows x new':>12}" + "".join(f"{name:>8}" for name in COLUMNS))
    results = []
    for rows, width in SHAPES:
        target.store.create(SLAB, rows, max(512, 2 * context))
        steps = {
            "mlx-lm": mlx_lm_step(loaded, rows, width, context),
            "ours": our_step(target, rows, width, context),
            "traced": our_step(traced, rows, width, context),
            "stock": with_stock_attention(our_step(stock, rows, width, context)),
            "apart": our_step(target, rows, width, context, apart=True),
        }
        times: dict[str, list[float]] = {name: [] for name in steps}
        for measured in range(-2, options.rounds):
            for name, step in steps.items():
                elapsed = timed(step)
                if measured >= 0:
                    times[name].append(elapsed)
        medians = {name: statistics.median(values) for name, values in times.items()}
        results.append({"rows": rows, "width": width, **medians})
        figures = "".join(f"{medians[name]:8.2f}" for name in COLUMNS)
        print(f"{f'{rows} x {width}':>12}{figures}", flush=True)
        target.store.drop(SLAB)
    if options.json:
        options.json.write_text(json.dumps({"device": device.device_name, "results": results}))


if __name__ == "__main__":
    main()
