"""The small classifier in whose features ``stmd evaluate`` measures distances."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from stmd_sdk.data.load import ArrayData
from stmd_sdk.errors import DataError
from stmd_sdk.evaluation.features import FACTS_KEY, Classifier, ClassifierFacts
from stmd_sdk.models.tensors import write_tensors
from stmd_sdk.progress import progress_bar

from .batches import ArrayBatches

__all__ = ["accuracy", "save_classifier", "train_classifier"]

BATCH, RATE = 128, 1e-3
CHUNK = 1000


def train_classifier(
    data: ArrayData, labels: Int[Tensor, " n"], *, epochs: int = 5, seed: int = 0, progress: bool = False
) -> tuple[ClassifierFacts, Classifier]:
    """Train on images and their labels: Adam, cross entropy, half a cosine of learning rate, no augmentation.

    The facts' accuracy is NaN until it is measured on other data.
    """
    if len(data) == 0:
        raise DataError(f"{data.name} is empty")
    if len(labels) != len(data):
        raise DataError(f"{data.name} has {len(data)} images and {len(labels)} labels")
    if len(data.shape) != 3:
        raise DataError(f"{data.name} has samples of shape {list(data.shape)}: a classifier takes images [c, h, w]")
    facts = ClassifierFacts(data.shape, data.name, int(labels.max()) + 1, float("nan"), epochs, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(facts.shape, facts.classes)
    steps = max(1, epochs * len(data) // BATCH)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = ArrayBatches(data, BATCH, seed)
    with progress_bar("training", steps, "step", progress) as advance:
        for step in range(steps):
            rows = batches.rows(step)
            loss = nn.functional.cross_entropy(classifier(data[rows]), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            advance()
    return facts, classifier.eval().requires_grad_(False)


def accuracy(classifier: Classifier, data: ArrayData, labels: Int[Tensor, " n"]) -> float:
    """The share of images whose largest logit is that of their label."""
    right = sum(int((classifier(data[rows]).argmax(1) == labels[rows]).sum()) for rows in _chunks(len(data)))
    return right / len(data)


def save_classifier(path: Path, facts: ClassifierFacts, classifier: Classifier) -> None:
    """Write the weights as float16, with the facts inside."""
    tensors = {name: tensor.half() for name, tensor in classifier.state_dict().items()}
    write_tensors(path, tensors, {FACTS_KEY: facts.to_json()})


def _chunks(n: int) -> tuple[Tensor, ...]:
    return torch.arange(n).split(CHUNK)
