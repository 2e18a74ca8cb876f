"""What loading on demand costs: who asks for a model that is not in memory, and the others.

    python benches/models.py                  # the demo model, twice
    python benches/models.py --quick          # a try of the bench, not a measurement

cold: time from asking a model that is not in memory to its first token: our first load of it, which
    also measures what steps cost; our later ones; and `mlx_lm.load` with one step of mlx-lm.
beside: decode rate of a model in memory, alone, and while another is loaded over and over.
"""

import argparse
import asyncio
import statistics
import time
from contextlib import suppress

from mlxspec.model.backend import prepare

prepare()

import mlx.core as mx  # noqa: E402 - after its BLAS
from mlx_lm import load  # noqa: E402
from mlx_lm.generate import generate_step  # noqa: E402

from mlxspec.config import Config, KVConfig, MemoryConfig  # noqa: E402
from mlxspec.engine.engine import Engine  # noqa: E402
from mlxspec.engine.request import GenerationRequest, SamplingParams  # noqa: E402
from mlxspec.model.store import resolve  # noqa: E402
from mlxspec.model_tables import ModelConfig  # noqa: E402
from serving import report  # noqa: E402

PROMPT = "Once upon a time"


def _config(source: str) -> Config:
    models = tuple(ModelConfig(id=name, source=source, preload=False) for name in "ab")
    memory = MemoryConfig(min_resident_seconds=0.0)
    return Config(models=models, memory=memory, kv=KVConfig(memory_bytes=128 << 20))


async def _first_and_rest(engine: Engine, model: str, num_tokens: int) -> tuple[float, float]:
    """Seconds to the first piece of text, and from there to the end."""
    started = time.perf_counter()
    request = GenerationRequest(
        model=model,
        prompt=PROMPT,
        max_tokens=num_tokens,
        ignore_eos=True,
        speculative=False,
        sampling=SamplingParams(temperature=0),
    )
    first = None
    async for delta in await engine.submit(request):
        if first is None and delta.text:
            first = time.perf_counter()
    ended = time.perf_counter()
    first = first or ended
    return first - started, ended - first


async def _cold(engine: Engine, repeats: int) -> list[float]:
    """Seconds to first text of a model that is not in memory, load by load."""
    seconds = []
    for _ in range(1 + repeats):
        seconds.append((await _first_and_rest(engine, "a", 4))[0])
        await engine.unload("a")
    return seconds


def _cold_mlx_lm(source: str) -> float:
    """Seconds of `mlx_lm.load` and one step; the model is dropped again."""
    started = time.perf_counter()
    model, tokenizer = load(source)[:2]
    next(generate_step(mx.array(tokenizer.encode(PROMPT)), model, max_tokens=1))
    seconds = time.perf_counter() - started
    del model
    mx.clear_cache()
    return seconds


async def _reload(engine: Engine) -> None:
    while True:
        await engine.load("b")
        await engine.unload("b")


async def _beside(engine: Engine, repeats: int, num_tokens: int) -> tuple[float, float]:
    """Median tokens a second of the resident model, alone and beside loads, in turn."""
    await _first_and_rest(engine, "a", num_tokens)
    await engine.load("b")  # its first load measures steps
    alone, beside = [], []
    for _ in range(repeats):
        alone.append(num_tokens / (await _first_and_rest(engine, "a", num_tokens))[1])
        loading = asyncio.create_task(_reload(engine))
        beside.append(num_tokens / (await _first_and_rest(engine, "a", num_tokens))[1])
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
    return statistics.median(alone), statistics.median(beside)


async def _run(options: argparse.Namespace) -> None:
    source = str(resolve(options.model, download=False))
    engine = Engine(_config(source))
    await engine.start()
    try:
        first, *later = await _cold(engine, options.repeats)
        theirs = [_cold_mlx_lm(source) for _ in range(1 + options.repeats)][1:]
        ours, peer = statistics.median(later), statistics.median(theirs)
        print(f"cold    first {first:.2f} s  later {ours:.2f} s  mlx_lm.load {peer:.2f} s")
        alone, beside = await _beside(engine, options.repeats, options.tokens)
        print(f"beside  alone {alone:.1f} tok/s  loading {beside:.1f}  ratio {beside / alone:.2f}")
    finally:
        await engine.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a stored name or a model folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="decoded in each round of beside")
    parser.add_argument("--quick", action="store_true", help="small sizes, 1 round")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.tokens = 1, 16
    print(report.machine_line(report.machine()))
    asyncio.run(_run(options))


if __name__ == "__main__":
    main()
