"""One segment of KV as a file: whole and unharmed, or as good as none.

A safetensors file: the arrays by their number, as bits, and `check`, the SHA-256 of the file's name
and of all bits. So a torn file, a flipped bit and a file under another's name are all found out.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mlxspec.errors import KVFileError
from mlxspec.model.kv import Form

Bits: TypeAlias = np.ndarray[Any, np.dtype[Any]]

CHECK: Final = "check"
_BITS: Final = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}
"""Unsigned type by its bytes: what has no type in numpy, bfloat16 above all, has bits."""


def write_segment(file: Path, arrays: Sequence[mx.array]) -> int:
    """Write arrays aside, then put the file in its place; returns its bytes.

    Readable by the owner alone: KV is as telling as the text. Nothing waits for the disk: what a
    power cut tears is found out when it is read. Raises OSError, and leaves nothing behind.
    """
    tensors = {
        f"{at}": np.asarray(array.view(_bits(array.dtype))) for at, array in enumerate(arrays)
    }
    tensors[CHECK] = _check(file, tensors.values())
    content = save(tensors)
    aside = file.with_name(file.name + ".tmp")
    try:
        aside.touch(mode=0o600)
        aside.write_bytes(content)
        aside.replace(file)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return len(content)


def read_segment(file: Path, forms: Sequence[Form]) -> list[mx.array]:
    """Read arrays of these shapes and types.

    Raises KVFileError where the file holds anything else, OSError where it cannot be read.
    """
    try:
        tensors: dict[str, Bits] = load(file.read_bytes())
    except SafetensorError as error:
        raise KVFileError(f"{file.name} is torn: {error}") from None
    check = tensors.pop(CHECK, None)
    names = [f"{at}" for at in range(len(forms))]
    if check is None or set(tensors) != set(names):
        raise KVFileError(f"{file.name} holds other arrays")
    found = [tensors[name] for name in names]
    if not np.array_equal(check, _check(file, found)):
        raise KVFileError(f"{file.name} is not what was written")
    return [_restored(file, bits, form) for bits, form in zip(found, forms, strict=True)]


def _restored(file: Path, bits: Bits, form: Form) -> mx.array:
    restored = mx.array(bits)
    if restored.dtype != _bits(form.dtype) or restored.shape != form.shape:
        raise KVFileError(f"{file.name} holds arrays of another shape")
    return restored.view(form.dtype)


def _bits(dtype: mx.Dtype) -> mx.Dtype:
    return _BITS[dtype.size]


def _check(file: Path, tensors: Iterable[Bits]) -> Bits:
    digest = sha256(file.stem.encode())
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor).data)
    return np.frombuffer(digest.digest(), np.uint8)
