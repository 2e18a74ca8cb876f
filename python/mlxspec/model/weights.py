"""How much memory a model's weights take, by the headers of its files."""

from math import prod
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from mlxspec.errors import ModelImportError
from mlxspec.model.folder_check import read_json, weight_files

_BITS: Final = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "U64": 64, "I32": 32,
                "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8,
                "F8_E4M3": 8, "F8_E5M2": 8}  # fmt: skip
_CAST: Final = frozenset({"F32", "F16", "BF16"})


def weight_bytes(folder: Path, *, as_float32: bool) -> int:
    """Bytes of the weights in memory; reads headers only.

    as_float32: whether weights that are not quantised are cast to float32 when loaded. Raises
    ModelImportError when a header cannot be read.
    """
    cast = as_float32 and "quantization" not in read_json(folder / "config.json")
    return sum(_file_bytes(file, cast=cast) for file in weight_files(folder))


def _file_bytes(file: Path, *, cast: bool) -> int:
    try:
        with safe_open(str(file), framework="numpy") as tensors:
            slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118
            return sum(_bytes(it.get_shape(), it.get_dtype(), cast=cast) for it in slices)
    except (SafetensorError, OSError) as error:
        raise ModelImportError(f"{file}: {error}: download the model again") from None


def _bytes(shape: list[int], dtype: str, *, cast: bool) -> int:
    bits = 32 if cast and dtype in _CAST else _BITS.get(dtype, 64)
    return prod(shape) * bits // 8
