"""A strict reader of GGUF headers: every length is checked against the file before it is believed.

Model files come from strangers. Nothing here trusts a count, an offset or a string of the file, and
whatever does not fit raises ModelImportError; tensor bytes are handed out only as slices that this
reader found to lie inside the file.

    magic version | tensor count | pair count | key = value ... | name, shape, kind, offset ...
    padding to `general.alignment` | tensor bytes, each at data_start + offset
"""

import math
import struct
from dataclasses import dataclass
from typing import Final

from mlxspec.errors import ModelImportError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_DIMENSIONS: Final = 4
MAX_KEY_BYTES: Final = 1 << 16
MAX_TEXT_BYTES: Final = 1 << 24
MAX_ARRAY_ITEMS: Final = 1 << 24
STRING: Final = 8
ARRAY: Final = 9

Scalar = int | float | bool | str
Value = Scalar | list[Scalar]

_NUMBERS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip


@dataclass(frozen=True)
class TensorKind:
    """How one kind of tensor is stored: `block_bytes` bytes for every `block_values` values."""

    name: str
    block_values: int
    block_bytes: int


KINDS: Final = {
    0: TensorKind("F32", 1, 4),
    1: TensorKind("F16", 1, 2),
    2: TensorKind("Q4_0", 32, 18),
    3: TensorKind("Q4_1", 32, 20),
    8: TensorKind("Q8_0", 32, 34),
    12: TensorKind("Q4_K", 256, 144),
    13: TensorKind("Q5_K", 256, 176),
    14: TensorKind("Q6_K", 256, 210),
    30: TensorKind("BF16", 1, 2),
}
"""The kinds that can be converted, by their number in the file."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: `shape` is outermost first, its bytes lie in the file."""

    name: str
    kind: TensorKind
    shape: tuple[int, ...]
    start: int
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself, with every offset checked."""

    metadata: dict[str, Value]
    tensors: dict[str, Tensor]


class _Cursor:
    """Reads forward through `data`; running past its end is an error of the file, not ours."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self.position = 0

    def take(self, num_bytes: int, what: str) -> memoryview:
        end = self.position + num_bytes
        if end > len(self._data):
            left = len(self._data) - self.position
            raise _damaged(f"{what} needs {num_bytes} bytes, {left} are left")
        piece = self._data[self.position : end]
        self.position = end
        return piece

    def number(self, layout: str, what: str) -> int | float | bool:
        value: int | float | bool
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout), what))
        return value

    def u32(self, what: str) -> int:
        return int(self.number("<I", what))

    def u64(self, what: str) -> int:
        return int(self.number("<Q", what))

    def text(self, what: str, limit: int = MAX_TEXT_BYTES) -> str:
        length = self.u64(what)
        if length > limit:
            raise _damaged(f"{what} has {length} bytes, the limit is {limit}")
        try:
            return bytes(self.take(length, what)).decode()
        except UnicodeDecodeError:
            raise _damaged(f"{what} is not utf-8") from None

    def value(self, kind: int, what: str) -> Scalar:
        if kind == STRING:
            return self.text(what)
        layout = _NUMBERS.get(kind)
        if layout is None:
            raise _damaged(f"{what} has the unknown type {kind}")
        return self.number(layout, what)

    def array(self, what: str) -> list[Scalar]:
        kind, length = self.u32(what), self.u64(what)
        if length > MAX_ARRAY_ITEMS:
            raise _damaged(f"{what} has {length} items, the limit is {MAX_ARRAY_ITEMS}")
        layout = _NUMBERS.get(kind)
        if layout is None:
            return [self.value(kind, what) for _ in range(length)]
        size = struct.calcsize(layout)
        raw = self.take(size * length, what)
        return [item for (item,) in struct.iter_unpack(layout, raw)]


def read_header(data: memoryview) -> Header:
    """Read and check the header of the GGUF file whose bytes are `data`.

    Raises ModelImportError, and nothing else, whatever the bytes are.
    """
    cursor = _Cursor(data)
    _check_preamble(cursor)
    num_tensors, num_pairs = cursor.u64("the tensor count"), cursor.u64("the metadata count")
    metadata: dict[str, Value] = {}
    for _ in range(num_pairs):
        key = cursor.text("a metadata key", MAX_KEY_BYTES)
        if key in metadata:
            raise _damaged(f"metadata key {key!r} stands twice")
        kind = cursor.u32(key)
        metadata[key] = cursor.array(key) if kind == ARRAY else cursor.value(kind, key)
    alignment = _alignment(metadata)
    infos = [_read_info(cursor, alignment) for _ in range(num_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    return Header(metadata, _place(infos, data_start, len(data)))


def _check_preamble(cursor: _Cursor) -> None:
    if bytes(cursor.take(4, "the magic number")) != MAGIC:
        raise ModelImportError("not a gguf file: it does not begin with 'GGUF'")
    version = cursor.u32("the version")
    if version not in VERSIONS:
        raise ModelImportError(
            f"gguf version {version} cannot be read (2 and 3 can, little-endian): "
            "convert the file again with a current llama.cpp"
        )


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if not isinstance(value, int) or not 8 <= value <= 1 << 16 or value & (value - 1):
        raise _damaged(f"general.alignment is {value!r}, not a power of two from 8 to 65536")
    return value


def _read_info(cursor: _Cursor, alignment: int) -> Tensor:
    """Read one tensor's description; its `start` is still relative to the data section."""
    name = cursor.text("a tensor name", MAX_KEY_BYTES)
    num_dimensions = cursor.u32(name)
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise _damaged(f"tensor {name!r} has {num_dimensions} dimensions, 1 to 4 are possible")
    innermost_first = [cursor.u64(name) for _ in range(num_dimensions)]
    kind, offset = cursor.u32(name), cursor.u64(name)
    if kind not in KINDS:
        known = ", ".join(k.name for k in KINDS.values())
        raise ModelImportError(
            f"tensor {name!r} is stored in quantisation type {kind}, which cannot be converted: "
            f"take a file with {known} tensors (Q8_0, Q4_0, Q4_K_M files are)"
        )
    if 0 in innermost_first or innermost_first[0] % KINDS[kind].block_values:
        raise _damaged(f"tensor {name!r} has shape {innermost_first}, not whole {KINDS[kind].name}")
    if offset % alignment:
        raise _damaged(f"tensor {name!r} is at offset {offset}, not a multiple of {alignment}")
    num_blocks = math.prod(innermost_first) // KINDS[kind].block_values
    shape = tuple(reversed(innermost_first))
    return Tensor(name, KINDS[kind], shape, offset, num_blocks * KINDS[kind].block_bytes)


def _place(infos: list[Tensor], data_start: int, file_bytes: int) -> dict[str, Tensor]:
    """Turn relative offsets into positions in the file; none may overlap or leave it."""
    placed: dict[str, Tensor] = {}
    end_of_last = data_start
    for info in sorted(infos, key=lambda tensor: tensor.start):
        start = data_start + info.start
        if info.name in placed:
            raise _damaged(f"tensor {info.name!r} stands twice")
        if start < end_of_last:
            raise _damaged(f"tensor {info.name!r} overlaps another")
        end_of_last = start + info.num_bytes
        if end_of_last > file_bytes:
            raise _damaged(f"tensor {info.name!r} ends at {end_of_last} of {file_bytes} bytes")
        placed[info.name] = Tensor(info.name, info.kind, info.shape, start, info.num_bytes)
    return placed


def _damaged(detail: str) -> ModelImportError:
    return ModelImportError(f"damaged gguf file: {detail}: download it again")
