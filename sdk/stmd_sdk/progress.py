"""Progress bars, in one style."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(what: str, total: int, unit: str, show: bool) -> Generator[Callable[[], None], None, None]:
    """A bar over ``total`` units; the value is a function that advances it by one."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, disable=not show, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
