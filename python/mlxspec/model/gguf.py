"""Import a llama-architecture GGUF file as a model folder MLX-LM can load.

The file is read by `gguf_header` (strict), planned by `gguf_config` (nothing missing, nothing
unknown) and decoded by `gguf_tensors` from a memory map, one tensor at a time: memory holds one
copy of the model in the target type. MLX's own GGUF reader never sees the file.
"""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxspec.errors import ModelImportError
from mlxspec.model.backend import WeightDtype
from mlxspec.model.folder import Manifest, assemble
from mlxspec.model.gguf_config import (
    ROPE_FACTORS,
    Source,
    llama3_scaling,
    plan_weights,
    read_config,
)
from mlxspec.model.gguf_header import Header, read_header
from mlxspec.model.gguf_metadata import Metadata
from mlxspec.model.gguf_tensors import dequantise
from mlxspec.model.gguf_tokenizer import build_tokenizer, generation_config, tokenizer_config
from mlxspec.model.progress import Progress, silent


def import_gguf(
    path: Path,
    target: Path,
    dtype: WeightDtype,
    progress: Progress = silent,
    notices: dict[str, str] | None = None,
) -> Path:
    """Convert `path` into the new model folder `target` and return it.

    dtype: what the weights are stored as. notices: extra text files (name -> content), such as the
    licence. The folder appears whole or not at all. Raises ModelImportError when the file cannot be
    read or converted, or when `target` exists already. Any thread; not two at once.
    """
    data = _map(path)
    header = read_header(data)
    config = read_config(header) | {"dtype": dtype}
    plan = plan_weights(header, config)
    texts = _texts(Metadata(header.metadata), config | _rope_scaling(data, header, config))
    with assemble(target) as folder:
        weights = _convert(data, header, plan, getattr(mx, dtype), progress)
        mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
        for name, text in (texts | (notices or {})).items():
            (folder / name).write_text(text, encoding="utf-8")
        Manifest.of(folder, path.name, file_sha256(path), dtype).write(folder)
    return target


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _texts(metadata: Metadata, config: dict[str, Any]) -> dict[str, str]:
    """The JSON files of the folder, by name."""
    generation = generation_config(metadata)
    tokenizer = tokenizer_config(metadata, config["max_position_embeddings"])
    return {
        "config.json": _json(config | generation),
        "generation_config.json": _json(generation),
        "tokenizer_config.json": _json(tokenizer),
        "tokenizer.json": build_tokenizer(metadata).to_str(),
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _map(path: Path) -> memoryview:
    """Map the file into memory; it is unmapped when the last view of it is gone."""
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise ModelImportError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise ModelImportError(f"{path} is empty: download it again") from None


def _rope_scaling(data: memoryview, header: Header, config: dict[str, Any]) -> dict[str, Any]:
    tensor = header.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return {}
    if tensor.shape != (config["head_dim"] // 2,) or "rope_scaling" in config:
        raise ModelImportError("the rope factors do not fit the model: download the file again")
    factors: list[float] = dequantise(data, tensor, mx.float32).tolist()  # type: ignore[assignment]
    return {"rope_scaling": llama3_scaling(factors, config)}


def _convert(
    data: memoryview,
    header: Header,
    plan: dict[str, Source],
    dtype: mx.Dtype,
    progress: Progress,
) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for done, (name, source) in enumerate(plan.items()):
        progress("converting weights", done, len(plan))
        weight = dequantise(data, header.tensors[source.name], dtype)
        weights[name] = _unpermute(weight, source.rope_heads) if source.rope_heads else weight
    mx.eval(weights)
    progress("converting weights", len(plan), len(plan))
    return weights


def _unpermute(weight: mx.array, heads: int) -> mx.array:
    """Undo the row order of GGUF's attn_q and attn_k, which rotates neighbouring rows together.

    Within each head, stored row 2i + j is row i + j * head_dim / 2 of the original.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return mx.contiguous(pairs.swapaxes(1, 2).reshape(rows, columns))
