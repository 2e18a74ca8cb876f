"""Progress on the terminal: a bar for people, one line per stage for log files."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mlxspec.model.progress import Progress as Report


@contextmanager
def shown() -> Iterator[Report]:
    """Give a function that shows progress on stderr while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("starting", total=None)

        def report(doing: str, done: int, total: int) -> None:
            bars.update(bar, description=doing, completed=done, total=total)

        yield report


def _lines(console: Console) -> Report:
    seen: set[str] = set()

    def report(doing: str, _done: int, _total: int) -> None:
        if doing not in seen:
            seen.add(doing)
            console.print(doing, highlight=False)

    return report
