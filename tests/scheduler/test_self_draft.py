"""Layers of a model that draft for it: used where that pays, and only there."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from layouts import EXACT
from resident import running, text, until
from samplings import SAMPLINGS
from test_draft_model_lossless import asked, check_that_nothing_changes, model_drafts
from texts import prompts
from token_engine import token_engine

from conftest import TINY_CONFIG, save_tiny_model
from mlxspec.config import Config, KVConfig, SpeculationConfig
from mlxspec.engine import self_draft, step_costs
from mlxspec.engine.model_facts import DEVICE_SHAPES
from mlxspec.model.load import load
from mlxspec.model_tables import ModelConfig
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.speculative.layer_skip import of_layers, try_layers
from mlxspec.speculative.step import Target

AUTO = Path("auto")
TEXTS = [prompts(12, seed=3)[at] for at in (5, 8, 9)]


@pytest.fixture(scope="module")
def idle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of eight layers, of which 2 to 6 and 7 do next to nothing."""
    folder = tmp_path_factory.mktemp("idle")
    save_tiny_model(folder, TINY_CONFIG | {"num_hidden_layers": 8})
    weights = mx.load(str(folder / "model.safetensors"))
    for name, value in weights.items():
        parts = name.split(".")
        if parts[-2] in {"o_proj", "down_proj"} and int(parts[2]) in {2, 3, 4, 5, 7}:
            weights[name] = 1e-3 * value
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


@pytest.fixture
def costs_by_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take as long as they have layers, whatever their tokens."""

    def ms(target: Target) -> float:
        return len(target.network.windows) / 8

    def measured(target: Target, **_: object) -> StepCosts:
        return StepCosts(step_cost=[(1, ms(target)), (64, ms(target))], rect_cost=0.0)

    monkeypatch.setattr(step_costs, "measure", measured)
    monkeypatch.setattr(self_draft, "plain_step_ms", lambda target, **_: ms(target))


def test_layers_that_do_little_are_left_out_first(idle_folder: Path) -> None:
    loaded = load(idle_folder, mx.float32)
    trials = {len(trial.kept): trial for trial in try_layers(loaded, TEXTS)}
    assert trials[3].kept == (0, 1, 6)
    assert trials[3].agreement > 0.95
    assert trials[1].agreement < trials[3].agreement


def test_layers_share_the_models_weights(idle_folder: Path) -> None:
    loaded = load(idle_folder, mx.float32)
    before = mx.get_active_memory()
    own = of_layers(loaded, (0, 1, 6))
    mx.eval(own.model.parameters())
    assert len(own.layers) == len(own.windows) == 3
    assert len(loaded.model.layers) == 8, "the model itself keeps all of them"
    assert mx.get_active_memory() - before < 4096


@pytest.mark.usefixtures("costs_by_layers", "layout")
@pytest.mark.parametrize("name", ["greedy", "truncations", "everything"])
def test_a_model_that_can_drafts_for_itself_and_changes_no_token(
    idle_folder: Path, name: str
) -> None:
    with token_engine(idle_folder, shared_suffix_bytes=0, draft_model=AUTO) as engine:
        told = engine.runner.self_drafts.of(0)
        assert told is not None
        assert told.kept is not None
        check_that_nothing_changes(engine, SAMPLINGS[name])
        drafted, kept = model_drafts(engine)
    assert (drafted > 20) == (name != "everything")
    assert kept >= 0.9 * drafted


@pytest.mark.usefixtures("costs_by_layers")
def test_a_model_of_which_every_layer_counts_drafts_from_text_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", EXACT)
    folder = save_tiny_model(tmp_path, TINY_CONFIG | {"num_hidden_layers": 8})
    with token_engine(folder, shared_suffix_bytes=0, draft_model=AUTO) as engine:
        told = engine.runner.self_drafts.of(0)
        requests = [engine.submit(prompt, size) for prompt, size in asked(40)]
        assert all(engine.result(request).reason == "length" for request in requests)
        assert model_drafts(engine) == (0, 0)
        [drafter] = engine.scheduler.residency()[1:]
    assert drafter[0] == "absent"
    assert told is not None
    assert (told.kept, told.reason) == (None, "none pays")
    assert all(trial.promised_speedup < 1.05 for trial in told.trials)


def test_layers_that_see_different_windows_are_left_together(windowed_folder: Path) -> None:
    with token_engine(windowed_folder, draft_model=AUTO) as engine:
        assert engine.generate([3, 1, 4], 8)
        told = engine.runner.self_drafts.of(0)
    assert told is not None
    assert told.kept is None
    assert "not all alike" in told.reason


@pytest.mark.usefixtures("costs_by_layers")
async def test_its_layers_come_and_go_with_the_model_and_are_chosen_once(
    idle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", EXACT)
    config = Config(
        models=(ModelConfig(id="idle", source=str(idle_folder), draft_model="auto"),),
        kv=KVConfig(memory_bytes=1 << 20),
        speculation=SpeculationConfig(keep_costs=False, shared_suffix_bytes=0),
    )
    trying, tried = self_draft.try_layers, []

    def counted(*arguments: Any) -> Any:
        tried.append(1)
        return trying(*arguments)

    monkeypatch.setattr(self_draft, "try_layers", counted)

    def drafter_is(state: str) -> bool:
        return engine.drafters()[0].state == state

    async with running(config) as engine:
        plain = await text(engine, "idle", max_tokens=60, speculative=False)
        for _ in range(2):
            await until(lambda: drafter_is("resident"))
            before = engine.counters().drafters[-1][1]
            assert await text(engine, "idle", max_tokens=60) == plain
            assert engine.counters().drafters[-1][1] > before
            [drafter] = engine.drafters()
            assert (drafter.id, drafter.memory_bytes) == ("idle:auto", 0)
            await engine.unload("idle")
            await until(lambda: drafter_is("absent"))
            assert engine.counters().model_bytes == 0
            assert await text(engine, "idle", max_tokens=60) == plain
        [report] = engine.speculation()
        assert report.self_draft is not None
        assert report.self_draft.kept == (0, 1, 6)
    assert len(tried) == 1
