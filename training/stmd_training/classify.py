"""``stmd-train-classifier``: train the classifier of ``stmd evaluate`` on one's own labelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from stmd_sdk.console import exit_on_error, run_command, say
from stmd_sdk.errors import DataError
from stmd_sdk.files import check_writable

__all__ = ["main"]


def _train(
    data: Annotated[str, typer.Option(help="A folder of MNIST's or CIFAR-10's files, with labels.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path("classifier.safetensors"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes through the training split.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the first weights and of the order.")] = 0,
) -> None:
    """Train a classifier for `stmd evaluate --features FILE`, and state its accuracy on the test split."""
    with exit_on_error():
        # PyTorch takes seconds to import, and --help should not wait for it.
        from stmd_sdk.data.arrays import ArrayData  # noqa: PLC0415
        from stmd_sdk.data.labels import load_labels  # noqa: PLC0415
        from stmd_sdk.data.load import load_data  # noqa: PLC0415

        from .classifier import accuracy, save_classifier, train_classifier  # noqa: PLC0415

        check_writable(out)
        images, held_out = load_data(data), load_data(data, split="test")
        if not isinstance(images, ArrayData) or not isinstance(held_out, ArrayData):
            raise DataError(f"{data}: has no labels to train on")
        labels, held_out_labels = load_labels(data), load_labels(data, split="test")
        facts, classifier = train_classifier(images, labels, epochs=epochs, seed=seed)
        classifier = classifier.half().float()  # as it will be read
        facts = replace(facts, accuracy=accuracy(classifier, held_out, held_out_labels))
        save_classifier(out, facts, classifier)
        say(f"{100 * facts.accuracy:.2f} % of {len(held_out)} test images, {epochs} epochs: {out}")


def main() -> None:
    """Run ``stmd-train-classifier``."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(_train)
    run_command(app)
