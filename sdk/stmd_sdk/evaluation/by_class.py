"""What a classifier makes of samples: whether they are of the classes that were asked for, and of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .distances import frechet_distance

__all__ = ["ClassFigures", "class_figures"]


@final
@dataclass(frozen=True)
class ClassFigures:
    """``entropy`` of the classes that a classifier sees, in nats: log k where all k are as frequent.

    Of labelled samples also the share of them on which it agrees with the label, and the Fréchet distance of each class
    to that class of the data, None where there are no more samples than features.
    """

    entropy: float
    agreement: float | None = None
    frechet: tuple[float | None, ...] = ()


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
        return ClassFigures(entropy)
    rows = [(labels == c).nonzero().flatten() for c in range(logits.shape[1])]
    enough = vectors.shape[1]
    distances = tuple(frechet_distance(vectors[of], real[of]) if len(of) > enough else None for of in rows)
    return ClassFigures(entropy, float((seen == labels).double().mean()), distances)
