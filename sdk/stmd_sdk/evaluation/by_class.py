"""What a classifier makes of samples: whether they are of the classes that were asked for, and of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .distances import frechet_distance

__all__ = ["ClassFigures", "class_figures", "without_class"]

SURE = 0.5  # a class that is likelier than all others together


@final
@dataclass(frozen=True)
class ClassFigures:
    """``entropy`` of the classes that a classifier sees, in nats: log k where all k are as frequent.

    ``without`` is the share of the samples that it sees no class in (:func:`without_class`).

    Of labelled samples also the share of them on which it agrees with the label, and the Fréchet distance of each class
    to that class of the data, None where there are no more samples than features.
    """

    entropy: float
    without: float
    agreement: float | None = None
    frechet: tuple[float | None, ...] = ()


def without_class(logits: Float[Tensor, "n k"]) -> float:
    """The share of samples in which a classifier sees no class: it gives none of them a probability of one half."""
    return float((logits.softmax(1).amax(1) < SURE).double().mean())


def class_figures(
    logits: Float[Tensor, "n k"],
    vectors: Float[Tensor, "n f"],
    real: Float[Tensor, "n f"],
    labels: Int[Tensor, " n"] | None,
) -> ClassFigures:
    """The figures of samples; ``labels`` are theirs and, row by row, those of the ``real`` ones."""
    seen = logits.argmax(1)
    shares = torch.bincount(seen).double() / len(seen)
    entropy = float(torch.special.entr(shares).sum())
    if labels is None:
        return ClassFigures(entropy, without_class(logits))
    rows = [(labels == c).nonzero().flatten() for c in range(logits.shape[1])]
    enough = vectors.shape[1]
    distances = tuple(frechet_distance(vectors[of], real[of]) if len(of) > enough else None for of in rows)
    return ClassFigures(entropy, without_class(logits), float((seen == labels).double().mean()), distances)
