"""Progress bars, in one style."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["bar_columns", "progress_bar"]


def bar_columns(*shown: str) -> tuple[ProgressColumn, ...]:
    """What it is, how far, the texts ``shown`` with the task's values in them, the time gone and left."""
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(text, markup=False) for text in shown),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )


@contextmanager
def progress_bar(what: str, total: int, unit: str, show: bool) -> Generator[Callable[[], None], None, None]:
    """A bar over ``total`` units; the value is a function that advances it by one."""
    with Progress(*bar_columns(unit), disable=not show, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
