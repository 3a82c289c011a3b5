"""What the command lines share: a console, and errors as one line with exit code 2."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import typer
from rich.console import Console

from .errors import StmdError

__all__ = ["console", "error_console", "exit_on_error"]

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def exit_on_error() -> Generator[None, None, None]:
    """Print an error of this project, or the absence of what the base install brings, as one line; exit with 2."""
    try:
        yield
    except StmdError as error:
        _print(str(error))
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("stmd_"):
            raise
        _print(f"{error.name} is not installed: pip install stmd-sdk (only whole samplers run without PyTorch)")
        raise typer.Exit(2) from None


def _print(message: str) -> None:
    error_console.print("[bold red]error:[/bold red]", end=" ")
    error_console.print(message, markup=False)
