"""What rounding keys and values costs: other answers, more surprise, fewer drafts kept.

    python benches/kv_bits.py                       # the demo model, 8 and 4 bits beside full KV
    python benches/kv_bits.py --model FOLDER --requests 16
    python benches/kv_bits.py --quick               # a try of the bench, not a measurement

Per kind of prompt and bits, greedy answers, one after another:

bytes       of one token's KV, and its share of full KV's
same        share of answers that are full KV's to the letter; and how far all of them agree with
            it, by characters up to the first that differs
perplexity  of full KV's answers, given their prompts, to the model with rounded KV
per pass    tokens per pass of the target, drafts included
"""

import argparse
import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Final, Literal

from msgspec import Struct

from mlxspec.model.backend import prepare

prepare()

import mlx.core as mx  # noqa: E402 - after BLAS
import numpy as np  # noqa: E402

from mlxspec.config import Config, KVConfig  # noqa: E402
from mlxspec.engine.engine import Engine  # noqa: E402
from mlxspec.engine.request import PLAIN_CHAT, GenerationRequest, SamplingParams  # noqa: E402
from mlxspec.engine.tokenizer import Tokenizer  # noqa: E402
from mlxspec.model.attention import StepAttention  # noqa: E402
from mlxspec.model.forward import Network  # noqa: E402
from mlxspec.model.kv import KVStore, Rect  # noqa: E402
from mlxspec.model.kv_form import quantised  # noqa: E402
from mlxspec.model.load import LoadedModel, load  # noqa: E402
from mlxspec.model.store import resolve  # noqa: E402
from mlxspec.model_tables import ModelConfig  # noqa: E402
from serving.prompts import KINDS, Kind, Messages, Prompts  # noqa: E402

Bits = Literal[4, 8] | None
ALL_BITS: Final[tuple[Bits, ...]] = (None, 8, 4)
CHUNK: Final = 64
"""Tokens that the perplexity's forwards read at once."""


class Answer(Struct, frozen=True):
    """A greedy answer and the target's passes that it took."""

    text: str
    num_tokens: int
    num_passes: int


async def ask(folder: Path, bits: Bits, asked: list[Messages], max_tokens: int) -> list[Answer]:
    """Answers of a server of its own."""
    model = ModelConfig(id="model", source=str(folder), kv_bits=bits)
    engine = Engine(Config(models=(model,), kv=KVConfig(memory_bytes=1 << 30)))
    await engine.start()
    try:
        await engine.load("model")
        return [await _answer(engine, messages, max_tokens) for messages in asked]
    finally:
        await engine.stop(0)


async def _answer(engine: Engine, messages: Messages, max_tokens: int) -> Answer:
    request = GenerationRequest(
        model="model",
        prompt=[*messages],
        sampling=SamplingParams(temperature=0),
        max_tokens=max_tokens,
    )
    generation = await engine.submit(request)
    text = "".join([delta.text async for delta in generation])
    num_tokens, drafted = generation.usage.completion_tokens, generation.metrics
    kept = drafted.speculative_decoding
    accepted = 0 if kept is None else kept.num_accepted_draft_tokens
    return Answer(text, num_tokens, num_tokens - accepted)


class Reader:
    """The model with its KV in so many bits, reading texts that are known."""

    def __init__(self, loaded: LoadedModel, bits: Bits) -> None:
        self._network = Network(loaded.model, loaded.windows)
        self._layers = quantised(loaded.layers, bits)
        self.bytes_per_token = KVStore(self._layers).bytes_per_token

    def surprise(self, prompt: list[int], answer: list[int]) -> float:
        """Mean negative logprob of the answer's tokens behind the prompt."""
        tokens = prompt + answer
        store = KVStore(self._layers)
        store.create(0, 1, len(tokens))
        told = [self._chunk(store, tokens, at) for at in range(0, len(tokens) - 1, CHUNK)]
        return -float(np.concatenate(told)[len(prompt) - 1 :].mean())

    def _chunk(self, store: KVStore, tokens: list[int], start: int) -> np.ndarray:
        """Logprobs of the tokens behind each of a chunk's."""
        stop = min(start + CHUNK, len(tokens) - 1)
        rect = Rect(slab=0, slot=0, rows=1, width=stop - start, first=0, view=stop)
        positions = mx.arange(start, stop, dtype=mx.int32)
        attention = StepAttention(store.slabs, [rect], positions, [start], None)
        logits = self._network(attention, mx.array(tokens[start:stop])).astype(mx.float32)
        behind = mx.array(tokens[start + 1 : stop + 1])[:, None]
        logprobs = mx.take_along_axis(logits, behind, axis=-1)[:, 0]
        logprobs = logprobs - mx.logsumexp(logits, axis=-1)
        mx.eval(logprobs, attention.touched())
        return np.asarray(logprobs)


def lines(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """One line for each kind of prompt and each number of bits."""
    prompts, tokenizer = Prompts(), Tokenizer.load(folder)
    asked = {kind: prompts.take(kind, 1, options.requests)[0] for kind in KINDS}
    every = [messages for kind in KINDS for messages in asked[kind]]
    answers: dict[Bits, dict[Kind, list[Answer]]] = {}
    for bits in ALL_BITS:
        given = iter(asyncio.run(ask(folder, bits, every, options.max_tokens)))
        answers[bits] = {kind: [next(given) for _ in asked[kind]] for kind in KINDS}
    loaded = load(folder, mx.float32 if mx.default_device() == mx.cpu else None)
    readers = {bits: Reader(loaded, bits) for bits in ALL_BITS}
    full = readers[None].bytes_per_token
    for kind in KINDS:
        for bits, reader in readers.items():
            surprises = [
                reader.surprise(tokenizer.encode([*it], PLAIN_CHAT), tokens)
                for it, said in zip(asked[kind], answers[None][kind], strict=True)
                if (tokens := tokenizer.encode_answer(said.text))
            ]
            yield (
                f"{kind:5} {bits or 'full':>4}  "
                f"bytes {reader.bytes_per_token:6} ({reader.bytes_per_token / full:4.0%})  "
                f"{_agreement(answers[None][kind], answers[bits][kind])}  "
                f"perplexity {math.exp(mean(surprises)):7.3f}  "
                f"per pass {_per_pass(answers[bits][kind]):5.2f}"
            )


def _agreement(full: list[Answer], rounded: list[Answer]) -> str:
    pairs = [(a.text, b.text) for a, b in zip(full, rounded, strict=True)]
    same = mean(a == b for a, b in pairs)
    common = sum(_num_common(*pair) for pair in pairs) / sum(len(a) for a, _ in pairs)
    return f"same {same:4.0%}, agree {common:4.0%}"


def _num_common(one: str, other: str) -> int:
    """Characters up to the first that differs."""
    pairs = enumerate(zip(one, other, strict=False))
    shorter = min(len(one), len(other))
    return next((at for at, (a, b) in pairs if a != b), shorter)


def _per_pass(answers: list[Answer]) -> float:
    return sum(it.num_tokens for it in answers) / sum(it.num_passes for it in answers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a stored name or a model folder")
    parser.add_argument("--requests", type=int, default=8, help="of each kind")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--quick", action="store_true", help="one short request of each kind")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.max_tokens = 1, 16
    print(", ".join(f"{name} {value}" for name, value in vars(options).items()), flush=True)
    for line in lines(Path(resolve(options.model, download=False)), options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
