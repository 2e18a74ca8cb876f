"""How a dialect words an error: its body, and where its statuses differ from ours."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct

from mlxspec.errors import MlxspecError

OUR_STATUSES: Mapping[int, int] = MappingProxyType({})


class ErrorForm(NamedTuple):
    """One dialect's errors."""

    body: Callable[[MlxspecError], Struct]
    type: type[Struct]
    """Of the body."""
    statuses: Mapping[int, int] = OUR_STATUSES
    """The dialect's status for one of ours, where they differ."""

    def status(self, error: MlxspecError) -> int:
        """The HTTP status that this dialect's clients expect."""
        return self.statuses.get(error.status, error.status)
