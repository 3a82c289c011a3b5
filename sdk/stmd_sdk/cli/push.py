"""``stmd push``: a model onto the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import exit_on_error, say
from .options import ModelArgument

__all__ = ["push"]


def push(
    model: ModelArgument,
    repository: Annotated[str, typer.Argument(help="Where to, as owner/name; it is made where it does not exist.")],
    certificate: Annotated[
        Path | None, typer.Option(help="The JSON that stmd certify wrote of the model, which its card then shows.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository a private one.")] = False,
) -> None:
    """Put a .safetensors model on the Hugging Face Hub, with a card and a grid of samples.

    Log in first: hf auth login.

    [dim]stmd push runs/mnist/model.safetensors someone/digits --certificate mnist-certificate.json[/dim]
    """
    with exit_on_error():
        from .sampling import push_file  # noqa: PLC0415  after --help has been answered

        say(f"{model} is at {push_file(model, repository, certificate, private)}")
