"""Rounded KV changes tokens, but the same ones for everybody: alone, in a batch, drafted for or
not, preempted, reused, and from disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from layouts import PADDED
from texts import phrases
from token_engine import TokenEngine, token_engine

from mlxspec.config import Config
from mlxspec.engine import step_costs
from mlxspec.engine.engine import Engine
from mlxspec.engine.model_facts import DEVICE_SHAPES, DeviceShape
from mlxspec.errors import ModelImportError, UnavailableError
from mlxspec.model.forward import CompiledForward
from mlxspec.model.kv_form import quantised
from mlxspec.model_tables import ModelConfig
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.step import Target
from tiny_models import save_model_with_tokenizer

pytestmark = pytest.mark.usefixtures("drafts_look_free")

Bits = Literal[4, 8]
SAMPLED = {"temperature": 0.8, "top_p": 0.9, "seed": 5}
BUCKET_BYTES = {8: 256 * 2 * 2 * 2 * (32 + 8), 4: 256 * 2 * 2 * 2 * (16 + 8)}
"""One smallest row: 256 positions, 2 layers, 2 heads, keys and values of 32 in one group."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose heads make whole groups."""
    path = tmp_path_factory.mktemp("models") / "wide"
    return save_model_with_tokenizer(path, "llama", 4, head_dim=32)


@pytest.fixture(params=[8, 4])
def bits(request: pytest.FixtureRequest) -> Bits:
    chosen: Bits = request.param
    return chosen


@pytest.fixture
def engine(folder: Path, bits: Bits, layout: DeviceShape) -> Iterator[TokenEngine]:
    with token_engine(folder, kv_bits=bits) as running:
        yield running


def plain(
    folder: Path, bits: Bits | None, asked: list[list[int]], **options: Any
) -> list[list[int]]:
    """What each says alone, undrafted, computed from its first token."""
    with token_engine(folder, kv_bits=bits, speculation=False, prefix_cache=False) as alone:
        return [alone.generate(prompt, 40, **options) for prompt in asked]


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_drafted_batch_says_what_each_says_alone(
    engine: TokenEngine, folder: Path, bits: Bits, options: dict[str, Any]
) -> None:
    asked = [phrases(30 + 17 * at, at) for at in range(6)]
    running = [engine.submit(prompt, 40, **options) for prompt in asked]
    answers = [engine.result(request) for request in running]
    assert [answer.tokens for answer in answers] == plain(folder, bits, asked, **options)
    assert sum(answer.num_draft_tokens for answer in answers) > 0


def test_rounding_is_felt_and_more_so_with_fewer_bits(folder: Path, layout: DeviceShape) -> None:
    asked = [phrases(60 + at, at) for at in range(8)]
    full, eight, four = (plain(folder, bits, asked) for bits in (None, 8, 4))
    same = [sum(map(list.__eq__, full, others)) for others in (eight, four)]
    assert 8 > same[0] >= same[1] or same[0] == 8 > same[1], same


def test_preempted_and_continued_requests_come_to_the_same_tokens(
    folder: Path, bits: Bits, layout: DeviceShape
) -> None:
    asked = [phrases(60, 6) + phrases(130, 30 + at) for at in range(6)]
    expected = plain(folder, bits, asked)
    with token_engine(folder, kv_bits=bits, kv_bytes=4 * BUCKET_BYTES[bits]) as tight:
        assert tight.scheduler.counters()["kv_blocks_total"] == 4 * 16, "by their true bytes"
        for _ in range(2):
            running = [tight.submit(prompt, 40) for prompt in asked]
            assert [tight.result(request).tokens for request in running] == expected


def test_kv_from_disk_is_used_at_the_same_bits_alone(
    folder: Path, bits: Bits, layout: DeviceShape, tmp_path: Path
) -> None:
    prompt = phrases(300, 7)
    expected = plain(folder, bits, [prompt])
    for cached in (0, 256):
        with token_engine(folder, kv_bits=bits, kv_dir=tmp_path) as engine:
            answer = engine.result(engine.submit(prompt, 40))
            assert ([answer.tokens], answer.cached_tokens) == (expected, cached)
    with token_engine(folder, kv_bits=12 - bits, kv_dir=tmp_path) as other:  # type: ignore[arg-type]
        assert other.result(other.submit(prompt, 40)).cached_tokens == 0


def test_traced_steps_say_the_same(
    folder: Path, bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def traced(target: Target, **_: Any) -> StepCosts:
        target.network.compiled = CompiledForward(target.network, padded=True)
        return StepCosts(step_cost=[(1, 1.0), (64, 1.0)], rect_cost=0.0)

    asked = [phrases(30 + 17 * at, at) for at in range(4)]
    expected = plain(folder, bits, asked)
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", PADDED)
    monkeypatch.setattr(step_costs, "measure", traced)
    with token_engine(folder, kv_bits=bits) as engine:
        running = [engine.submit(prompt, 40) for prompt in asked]
        assert [engine.result(request).tokens for request in running] == expected


async def test_a_model_that_cannot_is_not_loaded_and_says_why(tmp_path: Path) -> None:
    narrow = save_model_with_tokenizer(tmp_path / "narrow", "llama", 1)
    engine = Engine(Config(models=(ModelConfig(id="model", source=str(narrow), kv_bits=8),)))
    await engine.start()
    try:
        with pytest.raises(UnavailableError, match="heads of 16 and 16 cannot be kept in 8 bits"):
            await engine.load("model")
    finally:
        await engine.stop(0)


def test_a_state_of_more_than_keys_and_values_is_not_kept_in_fewer_bits() -> None:
    with pytest.raises(ModelImportError, match="serve the model without kv_bits"):
        quantised([], 8)
