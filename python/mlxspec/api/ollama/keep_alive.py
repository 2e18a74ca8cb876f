"""Ollama's `keep_alive`: how long a model stays in memory after its last request."""

import re
from typing import Final

from mlxspec.errors import BadRequestError

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")


def keep_alive_seconds(value: str | float | None) -> float | None:
    """Seconds of a number, or of a duration such as `10m` or `1h30m`; negative is for ever.

    None stays None: as it was. Raises BadRequestError.
    """
    if value is None or not isinstance(value, str):
        return value
    text = value.strip()
    try:
        return float(text)
    except ValueError:
        pass
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadRequestError(
            f"{value!r} is not a duration: write one such as 10m, or seconds", param="keep_alive"
        )
    total = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(match[2]))
    return -total if match[1] == "-" else total
