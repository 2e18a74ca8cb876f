"""Sizes as people read and write them."""

import rich_click as click

from mlxspec.config import parse_size
from mlxspec.errors import ConfigError


class Size(click.ParamType[int]):
    """A command line value such as `4GiB`, in bytes."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Parse `value`; a usage error when it is not a size."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ConfigError as error:
            self.fail(error.message, param, ctx)


def readable(num_bytes: int) -> str:
    """Bytes as a short text: 538090275 -> `513 MiB`."""
    size, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"
