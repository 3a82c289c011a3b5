"""Progress bars, in one style."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["bar_columns", "followed", "progress_bar"]

_TOLD: ContextVar[Callable[[int, int], None] | None] = ContextVar("_TOLD", default=None)


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
    told, done = _TOLD.get(), count(1)

    def tell() -> None:
        if told is not None:
            told(next(done), total)

    if not show:  # a bar that is made takes longer than a step of a small model, shown or not
        yield tell
        return
    with Progress(*bar_columns(unit), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def advance() -> None:
            bar.advance(task)
            tell()

        yield advance


@contextmanager
def followed(told: Callable[[int, int], None]) -> Generator[None, None, None]:
    """Tell ``told(done, total)`` what bars begun in the block, in this thread, advance, shown or not.

    What it raises ends the work.
    """
    token = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(token)
