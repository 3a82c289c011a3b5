"""Precision, recall, density and coverage from nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidArgumentError
from .distances import centred, distance_blocks

__all__ = ["Neighbourhood", "neighbourhood"]


@final
@dataclass(frozen=True)
class Neighbourhood:
    """How two samples lie among each other.

    ``precision``: share of samples inside some real point's k-neighbourhood; ``recall``: the same with the
    roles exchanged (Kynkäänniemi et al., 2019). ``density``: mean number of real neighbourhoods a sample lies
    in, over k; ``coverage``: share of real neighbourhoods that hold a sample (Naeem et al., 2020).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhood(real: Float[Tensor, "n *d"], samples: Float[Tensor, "m *d"], *, k: int = 5) -> Neighbourhood:
    """Compare ``samples`` with ``real`` data (or the features of both).

    A point's k-neighbourhood is the closed ball to its k-th nearest other point of its own sample.
    """
    real, samples = centred(real, samples)
    if k < 1 or min(len(real), len(samples)) <= k:
        raise InvalidArgumentError(f"k = {k} neighbours need at least {k + 1} points a side and k >= 1")
    radius_real, radius_samples = _radii(real, k), _radii(samples, k)
    inside = samples.new_zeros(len(samples))  # real neighbourhoods that a sample lies in
    covered, recalled = 0, 0
    for rows, distance in distance_blocks(real, samples):
        near = distance <= radius_real[rows, None]
        inside += near.sum(dim=0)
        covered += int(near.any(dim=1).sum())
        recalled += int((distance <= radius_samples).any(dim=1).sum())
    return Neighbourhood(
        precision=float((inside > 0).float().mean()),
        recall=recalled / len(real),
        density=float(inside.mean()) / k,
        coverage=covered / len(real),
    )


def _radii(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """The distance of each point to its k-th nearest other point."""
    radii: list[Tensor] = []
    for rows, distance in distance_blocks(x, x):
        own = torch.arange(len(x))[rows]
        distance[torch.arange(len(own)), own] = 0  # whatever rounding made of it, itself comes first
        radii.append(distance.kthvalue(k + 1, dim=1).values)
    return torch.cat(radii)
