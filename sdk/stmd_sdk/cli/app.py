"""``stmd``: draw from a model, look at it, certify it."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from ..console import run_command, say
from .certify import certify
from .demo import demo
from .doctor import doctor
from .evaluate import evaluate
from .info import info
from .push import push
from .restore import restore
from .sample import sample
from .serve import serve
from .trajectory import trajectory

__all__ = ["app", "main"]

COMMANDS = sample, trajectory, doctor, certify, evaluate, restore, info, push, serve, demo

app = typer.Typer(
    help="Stochastic one- and few-step diffusion: draw samples, look at models, certify their transitions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in COMMANDS:
    app.command()(command)


def _print_version(asked: bool) -> bool:
    if asked:
        say(f"stmd-sdk {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of ``stmd`` itself; its help is the app's."""


def main() -> None:
    """Run ``stmd``."""
    run_command(app)
