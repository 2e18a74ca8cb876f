"""Typed access to what a GGUF header says of its model."""

from mlxspec.errors import ModelImportError
from mlxspec.model.gguf_header import Value


class Metadata:
    """Typed access to a header's metadata; a missing or ill-typed key is a ModelImportError."""

    def __init__(self, values: dict[str, Value]) -> None:
        self._values = values

    def value(self, key: str) -> Value | None:
        """Whatever stands at `key`, or None."""
        return self._values.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str | None = None) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise _unusable(key, value)
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 to 2**31 - 1."""
        value = self._values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise _unusable(key, value)
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above zero and up to a thousand million million; infinity and NaN are not."""
        value = self._values.get(key, default)
        if not isinstance(value, int | float) or not 0 < value <= 1e15:
            raise _unusable(key, value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise _unusable(key, value)
        return value

    def texts(self, key: str) -> list[str]:
        values = self._values.get(key)
        if not isinstance(values, list):
            raise _unusable(key, values)
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) != len(values):
            raise _unusable(key, "a list of other things")
        return texts

    def ints(self, key: str) -> list[int] | None:
        """The list of whole numbers at `key`, or None when the key is absent."""
        values = self._values.get(key)
        if values is None:
            return None
        if not isinstance(values, list) or not all(isinstance(v, int) for v in values):
            raise _unusable(key, "a list of other things")
        return [int(value) for value in values]

    def token(self, key: str, num_tokens: int) -> int | None:
        """The token id at `key`, or None when the key is absent."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_tokens:
            raise _unusable(key, value)
        return value


def _unusable(key: str, value: object) -> ModelImportError:
    found = "missing" if value is None else f"{value!r:.60}"
    return ModelImportError(f"gguf metadata {key!r} is {found}: download the file again")
