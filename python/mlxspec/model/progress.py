"""How long work on models tells of its progress."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much is done, and how much there is."""


def silent(_doing: str, _done: int, _total: int) -> None:
    """A Progress that tells nobody."""
