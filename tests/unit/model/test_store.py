"""The model store: what a name resolves to, what is refused, and that names stay inside."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxspec.errors import MlxspecError, ModelImportError, ModelNotFoundError
from mlxspec.model import hub, store
from mlxspec.model.folder_check import LOADABLE


@pytest.fixture
def stored(store_home: Path, tiny_model: Path) -> Path:
    """The tiny model, stored under the name `tiny`."""
    shutil.copytree(tiny_model, store_home / "tiny")
    return store_home / "tiny"


def change_json(path: Path, **changes: object) -> None:
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | changes))


def refusal(source: str | Path) -> str:
    with pytest.raises(MlxspecError) as caught:
        store.resolve(str(source), download=False)
    return caught.value.message


def test_a_stored_name_a_folder_and_a_relative_folder_resolve(
    stored: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    assert store.resolve("tiny", download=False) == stored
    assert store.resolve(str(tiny_model), download=False) == tiny_model
    monkeypatch.chdir(tiny_model.parent)
    assert store.resolve(tiny_model.name, download=False) == tiny_model
    assert store.resolve(f"./{tiny_model.name}", download=False) == tiny_model


def test_a_stored_name_wins_over_a_folder_of_that_name(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert store.resolve("tiny", download=False) == stored


def test_a_folder_outside_the_store_may_have_any_name(store_home: Path, tiny_model: Path):
    odd = tiny_model.rename(tiny_model.parent / "ein Modell, größer")
    assert store.resolve(str(odd), download=False) == odd


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("demo", "mlxspec pull demo"),
        ("nothing", "mlxspec list"),
        ("./nothing", "no model folder ./nothing"),
        ("owner/name", "mlxspec pull owner/name"),
        ("a/b/c", "not a hugging face id"),
        ("file.gguf", "mlxspec import file.gguf"),
    ],
)
def test_what_is_not_here_is_refused_with_the_way_out(store_home: Path, source: str, said: str):
    assert said in refusal(source)


def test_a_hub_model_that_cannot_be_downloaded_is_refused(store_home: Path):
    with pytest.raises(MlxspecError, match="owner/name cannot be downloaded"):
        store.resolve("owner/name", download=True)


def cache_on_hub(tmp_path: Path, tiny_model: Path, hub_id: str) -> Path:
    """Put a model into the hub's cache the way its client does."""
    repo = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_model, snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    return snapshot


def test_a_cached_hub_model_resolves_without_the_network(
    store_home: Path, tmp_path: Path, tiny_model: Path
):
    snapshot = cache_on_hub(tmp_path, tiny_model, "owner/name")
    assert store.resolve("owner/name", download=False).samefile(snapshot)
    assert [(m.name, m.origin) for m in store.list_models()] == [("owner/name", "hugging face")]
    with pytest.raises(ModelNotFoundError, match="mlxspec rm --hub"):
        store.remove("owner/name")
    assert snapshot.is_dir()
    use = hub.cache_use()
    assert (use.num_repos, use.num_bytes > 1000) == (1, True)
    assert hub.remove("owner/name") > 0
    assert hub.cache_use().num_repos == 0
    with pytest.raises(ModelNotFoundError, match="not in the hugging face cache"):
        hub.remove("owner/name")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "hook", [{"auto_map": {"AutoModel": "x.Y"}}, {"model_file": "model.py"}], ids=["auto_map", "mf"]
)
def test_models_that_bring_code_are_refused(tiny_model: Path, name: str, hook: dict):
    (tiny_model / "model.py").write_text("raise SystemExit('ran')")
    change_json(tiny_model / name, **hook)
    assert f"{name} asks to run the model's own code" in refusal(tiny_model)


@pytest.mark.parametrize("model_type", ["nonesuch", "../evil", "a.b", "", 3, None])
def test_unknown_architectures_are_refused(tiny_model: Path, model_type: object):
    change_json(tiny_model / "config.json", model_type=model_type)
    assert "model_type" in refusal(tiny_model) or "does not know" in refusal(tiny_model)


def test_architectures_that_mlx_lm_maps_to_another_are_known(tiny_model: Path):
    change_json(tiny_model / "config.json", model_type="mistral")
    assert store.resolve(str(tiny_model), download=False) == tiny_model


def test_the_names_mlx_lm_maps_are_those_it_uses():
    from mlx_lm import utils

    from mlxspec.model.folder_check import _other_names

    assert _other_names(Path(utils.__file__)) == set(utils.MODEL_REMAPPING)


def test_plugin_names_that_are_no_names_are_refused(tiny_model: Path):
    change_json(tiny_model / "tokenizer_config.json", tool_parser_type="..evil")
    assert "tool_parser_type" in refusal(tiny_model)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_configs_that_are_no_json_object_are_refused(tiny_model: Path, content: bytes):
    (tiny_model / "config.json").write_bytes(content)
    assert "json" in refusal(tiny_model)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x08" + bytes(7) + b"{}      "[:4], (1 << 63).to_bytes(8, "little"), bytes(64)],
)
def test_false_safetensors_are_refused(tiny_model: Path, content: bytes):
    (tiny_model / "model.safetensors").write_bytes(content)
    assert "model.safetensors" in refusal(tiny_model)


def test_a_tensor_of_a_type_that_mlx_cannot_load_is_named(tiny_model: Path):
    save_file({"wide": np.zeros(2, np.float64)}, tiny_model / "model.safetensors")
    assert "tensor 'wide' is of type F64, which mlx cannot load" in refusal(tiny_model)


@pytest.mark.parametrize("dtype", sorted(LOADABLE))
def test_every_type_that_passes_the_gate_is_one_that_mlx_loads(tiny_model: Path, dtype: str):
    num_bytes = {"64": 8, "32": 4, "16": 2}.get(dtype[-2:], 1)
    tensor = {"dtype": dtype, "shape": [1], "data_offsets": [0, num_bytes]}
    header = json.dumps({"w": tensor}).encode()
    file = tiny_model / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(num_bytes))
    assert store.resolve(str(tiny_model), download=False) == tiny_model
    mx.eval(mx.load(str(file)))


@pytest.mark.parametrize("weight_map", [{"w": {}}, {"w": 3}, {"w": None}, ["w"], "w"])
def test_an_index_that_does_not_map_names_to_files_is_refused(tiny_model: Path, weight_map: object):
    index = tiny_model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert "weight_map does not map names to files" in refusal(tiny_model)


def test_truncated_weights_are_refused(tiny_model: Path):
    weights = tiny_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.safetensors" in refusal(tiny_model)


def test_missing_shards_and_missing_weights_are_refused(tiny_model: Path):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tiny_model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002" in refusal(tiny_model)
    (tiny_model / "model.safetensors.index.json").unlink()
    (tiny_model / "model.safetensors").rename(tiny_model / "pytorch_model.bin")
    assert "no model*.safetensors" in refusal(tiny_model)


def test_a_stored_model_that_is_not_whole_is_refused_and_not_listed(stored: Path):
    (stored / "tokenizer.json").unlink()
    assert "is not whole" in refusal("tiny")
    assert store.list_models() == []


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../x", "a/../../x", "/etc", "a/b/c", ".hidden", "a b", "a\n", "ä", "a/"],
)
def test_names_cannot_lead_out_of_the_store(store_home: Path, name: str):
    with pytest.raises(ModelNotFoundError):
        store.place(name)
    with pytest.raises(ModelNotFoundError):
        store.remove(name)


def test_a_link_out_of_the_store_is_not_followed(store_home: Path, tiny_model: Path):
    store_home.mkdir(parents=True)
    (store_home / "link").symlink_to(tiny_model)
    with pytest.raises(ModelNotFoundError, match="leads out"):
        store.remove("link")
    assert (tiny_model / "config.json").is_file()


def test_models_are_listed_by_name_with_their_facts(stored: Path, store_home: Path):
    shutil.copytree(stored, store_home / "owner" / "second")
    first, second = store.list_models()
    assert (first.name, second.name) == ("owner/second", "tiny")
    assert (second.model_type, second.dtype, second.context_length) == ("llama", "float32", 128)
    assert second.num_bytes == (stored / "model.safetensors").stat().st_size


def test_removing_frees_the_folder_and_only_that(stored: Path, store_home: Path):
    shutil.copytree(stored, store_home / "other")
    assert store.remove("tiny") > 0
    assert [model.name for model in store.list_models()] == ["other"]
    with pytest.raises(ModelNotFoundError, match="no model 'tiny'"):
        store.remove("tiny")


def test_an_owner_folder_is_not_removed_as_a_model(stored: Path, store_home: Path):
    shutil.copytree(stored, store_home / "owner" / "name")
    with pytest.raises(ModelNotFoundError):
        store.remove("owner")


def test_ids_are_names_of_folders_or_the_source_itself(
    stored: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tiny_model.parent)
    assert store.model_id("demo") == "demo"
    assert store.model_id("tiny") == "tiny"
    assert store.model_id("owner/name") == "owner/name"
    assert store.model_id(str(tiny_model)) == tiny_model.name
    assert store.model_id(f"./{tiny_model.name}/") == tiny_model.name


def test_reading_json_refuses_what_cannot_be_read(tmp_path: Path):
    from mlxspec.model.folder_check import read_json

    with pytest.raises(ModelImportError, match="cannot read"):
        read_json(tmp_path / "none.json")
