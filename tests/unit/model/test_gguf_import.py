"""Import of whole GGUF files: the folder computes what the original weights compute."""

import json
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from gguf_writer import (
    ARRAY,
    F32,
    HEADS,
    HIDDEN,
    TEXT,
    U32,
    TensorEntry,
    decoded,
    tiny_file,
    tiny_weights,
)  # fmt: skip
from mlx_lm import load
from mlx_lm.models import llama

from mlxspec.errors import ModelImportError
from mlxspec.model.folder import Manifest, is_whole
from mlxspec.model.gguf import file_sha256, import_gguf

QUANTISED = "model.layers.0.mlp.up_proj"
PROMPT = mx.array([[3, 40, 41, 1, 99, 7, 3, 200]])


def write(tmp_path: Path, file) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(file.to_bytes())
    return path


def reference_logits(weights: dict[str, np.ndarray], folder: Path) -> np.ndarray:
    """Logits of MLX-LM's llama with the original weights, never permuted or quantised by us."""
    config = json.loads((folder / "config.json").read_text())
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.load_weights([(f"{name}.weight", mx.array(value)) for name, value in weights.items()])
    return np.array(model(PROMPT))


def as_stored(weights: dict[str, np.ndarray], kinds: dict[str, str]) -> dict[str, np.ndarray]:
    return {name: decoded(value, kinds.get(name, "F32")) for name, value in weights.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_the_imported_model_computes_what_the_original_weights_compute(tmp_path: Path, tied: bool):
    kinds = {QUANTISED: "Q8_0", "model.embed_tokens": "F16"}
    weights = tiny_weights(tied=tied)
    folder = import_gguf(write(tmp_path, tiny_file(weights, kinds)), tmp_path / "out", "float32")
    model, tokenizer = load(str(folder))
    expected = reference_logits(as_stored(weights, kinds), folder)
    np.testing.assert_allclose(np.array(model(PROMPT)), expected, rtol=1e-5, atol=1e-5)
    assert tokenizer.decode(tokenizer.encode("hello 12 <tool>")) == "hello 12 <tool>"
    assert tokenizer.eos_token_ids == {2}


def test_the_chat_template_of_the_file_is_applied(tiny_model: Path):
    _, tokenizer = load(str(tiny_model))
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}])
    assert tokenizer.decode(ids) == "<|im_start|>hello<|im_end|>"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_stored_in_the_type_asked_for(tmp_path: Path, tiny_gguf: Path, dtype: str):
    folder = import_gguf(tiny_gguf, tmp_path / "out", dtype)
    weights = mx.load(str(folder / "model.safetensors"))
    assert {weight.dtype for weight in weights.values()} == {getattr(mx, dtype)}
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype


def test_the_manifest_says_where_the_model_is_from(tiny_gguf: Path, tiny_model: Path):
    manifest = Manifest.read(tiny_model)
    assert manifest is not None
    assert manifest.source_sha256 == file_sha256(tiny_gguf)
    assert (manifest.source, manifest.dtype) == ("tiny.gguf", "float32")
    assert is_whole(tiny_model)


def test_a_folder_that_lost_bytes_is_not_whole(tiny_model: Path):
    weights = tiny_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not is_whole(tiny_model)


def test_progress_ends_at_its_total(tmp_path: Path, tiny_gguf: Path):
    told = []
    import_gguf(tiny_gguf, tmp_path / "out", "float32", lambda *seen: told.append(seen))
    assert told[0][1] == 0
    assert told[-1][1] == told[-1][2] > 0


def llama3_factors(factor: float, base: float = 10000.0) -> np.ndarray:
    """Rope factors as llama.cpp writes them for Llama 3.1, from the definition of the scaling."""
    dim, factors = HIDDEN // HEADS, []
    for pair in range(dim // 2):
        wavelength = 2 * math.pi * base ** (2 * pair / dim)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192 / 1:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def with_rope_factors(factors: np.ndarray):
    file = tiny_file()
    file.tensors.append(TensorEntry("rope_freqs.weight", [len(factors)], 0, factors.tobytes()))
    return file


def test_llama_3_rope_factors_become_a_rope_scaling(tmp_path: Path):
    factors = llama3_factors(8.0)
    assert factors.max() == 8.0, "the test needs a wave long enough to be stretched"
    path = write(tmp_path, with_rope_factors(factors))
    folder = import_gguf(path, tmp_path / "out", "float32")
    scaling = json.loads((folder / "config.json").read_text())["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"]) == ("llama3", 8.0)


CAUSES = {
    "another architecture": (tiny_file(general__architecture=(TEXT, "gemma")), "'gemma'"),
    "experts": (tiny_file(llama__expert_count=(U32, 8)), "mixtures of experts"),
    "a part of a split file": (tiny_file(split__count=(U32, 3)), "one of 3 parts"),
    "sentencepiece": (tiny_file(tokenizer__ggml__model=(TEXT, "llama")), "tokenizer 'llama'"),
    "yarn": (tiny_file(llama__rope__scaling__type=(TEXT, "yarn")), "rope scaling 'yarn'"),
    "partial rotation": (tiny_file(llama__rope__dimension_count=(U32, 8)), "8 rotated"),
    "odd heads": (tiny_file(llama__attention__head_count_kv=(U32, 3)), "do not make"),
    "a missing key": (tiny_file(llama__context_length=None), "context_length' is missing"),
    "an infinite epsilon": (
        tiny_file(llama__attention__layer_norm_rms_epsilon=(F32, math.inf)), "is inf",
    ),
    "more layers than tensors": (tiny_file(llama__block_count=(U32, 1 << 30)), "1073741824 layers"),
    "a missing layer": (tiny_file(llama__block_count=(U32, 3)), "'blk.2.attn_norm.weight' is miss"),
    "an ill-shaped tensor": (tiny_file(llama__feed_forward_length=(U32, 97)), "has shape"),
    "foreign rope factors": (with_rope_factors(np.full(8, 3, np.float32)), "not llama 3's"),
    "too many rope factors": (with_rope_factors(np.ones(9, np.float32)), "do not fit"),
    "numbers for tokens": (tiny_file(tokenizer__ggml__tokens=(ARRAY, (U32, [1]))), "tokens' is"),
}  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES)
def test_files_that_cannot_be_imported_are_refused_and_leave_nothing(tmp_path: Path, cause: str):
    file, said = CAUSES[cause]
    path = write(tmp_path, file)
    with pytest.raises(ModelImportError, match=said):
        import_gguf(path, tmp_path / "out", "float32")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


def test_an_unknown_tensor_is_refused_by_name(tmp_path: Path):
    file = tiny_file()
    file.tensors.append(TensorEntry("blk.0.attn_q.bias", [HIDDEN], 0, bytes(4 * HIDDEN)))
    with pytest.raises(ModelImportError, match=r"blk\.0\.attn_q\.bias"):
        import_gguf(write(tmp_path, file), tmp_path / "out", "float32")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04" + bytes(100)])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelImportError):
        import_gguf(path, tmp_path / "out", "float32")


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ModelImportError, match=r"cannot read .*none\.gguf"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "out", "float32")


def test_an_existing_model_is_not_overwritten(tiny_gguf: Path, tiny_model: Path):
    before = (tiny_model / "config.json").stat().st_mtime_ns
    with pytest.raises(ModelImportError, match="exists already"):
        import_gguf(tiny_gguf, tiny_model, "float32")
    assert (tiny_model / "config.json").stat().st_mtime_ns == before


def test_the_second_of_two_writers_finds_the_first_ones_folder(tmp_path: Path, tiny_gguf: Path):
    target = tmp_path / "out"

    def overtake(_doing: str, done: int, total: int) -> None:
        if done == total:
            import_gguf(tiny_gguf, target, "float16")

    with pytest.raises(ModelImportError, match="exists already"):
        import_gguf(tiny_gguf, target, "float32", overtake)
    assert is_whole(target)
    assert json.loads((target / "config.json").read_text())["dtype"] == "float16"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "tiny.gguf"]
