"""What the command lines share: a console that shows text as it is, and errors as one line with exit code 2."""

from __future__ import annotations

import inspect
import io
import sys
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from .errors import StmdError, first_line, out_of_memory
from .files import brief

__all__ = ["console", "exit_on_error", "plain", "run_command", "say", "say_error"]

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)

# Control characters, which a terminal would obey; bidirectional marks, half surrogates, unassigned; line breaks.
UNSHOWN = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")


def plain(text: str) -> Text:
    """Text from anywhere as a terminal may get it: no markup, no emoji by name, control characters escaped."""
    return Text("".join(_shown(character) for character in text), overflow="fold")


def _shown(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in UNSHOWN:
        return character
    return character.encode("unicode_escape").decode()


def say(text: str) -> None:
    """Print text, whoever wrote parts of it: every command's way to the terminal."""
    console.print(plain(text))


def say_error(message: str) -> None:
    """Print an error as one line."""
    line = " ".join(message.splitlines())
    error_console.print(Text.assemble(("error:", "bold red"), " ", plain(line)))


def run_command(app: typer.Typer, *arguments: list[str], prog_name: str | None = None) -> None:
    """Run a command line. Characters that the terminal's encoding lacks are escaped there, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(app.info.help, str):
        app.info.help = _unwrapped(app.info.help)
    for command in app.registered_commands:
        command.help = _unwrapped(getattr(command.callback, "__doc__", None) or "")
    app(*arguments, prog_name=prog_name)


def _unwrapped(text: str) -> str:
    """A docstring as help, a line a paragraph, which the terminal's width wraps; examples stay line by line."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(one if one.startswith(("\b", "[dim]")) else " ".join(one.splitlines()) for one in paragraphs)


@contextmanager
def exit_on_error() -> Generator[None, None, None]:
    """Print an error of this project, memory that runs out, or that PyTorch is absent as one line; exit with 2."""
    try:
        yield
    except StmdError as error:
        say_error(str(error))
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("stmd_"):
            raise
        say_error(f"{error.name} is not installed: pip install stmd-sdk (only whole samplers run without PyTorch)")
        raise typer.Exit(2) from None
    except Exception as error:
        if not out_of_memory(error):
            raise
        what = first_line(error)
        say_error(f"memory ran out ({brief(what)}); ask for less at once: a smaller batch, model or number of samples")
        raise typer.Exit(2) from None
