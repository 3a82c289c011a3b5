"""What a mixture knows of pairs (x_0, x_t): one pass over the states, by chunks, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.schedule import Schedule
from ..mixtures.algebra import Look
from ..mixtures.law import GaussianMixture

__all__ = ["ORACLE_DRAWS", "OraclePairs", "looks", "oracle_pairs", "responsibilities"]

ORACLE_DRAWS = 4


@final
@dataclass(frozen=True, eq=False)
class OraclePairs:
    """Pairs at one t: the truth and further exact draws, p(j | x_t), and tr Cov[x_0 | x_t]."""

    x_0: Float[Tensor, "n d"]
    x_t: Float[Tensor, "n d"]
    t: float
    oracle: Float[Tensor, "L n d"]
    mass: Float[Tensor, "n k"]
    trace: Float[Tensor, " n"]


def looks(
    mixture: GaussianMixture, schedule: Schedule, x_t: Float[Tensor, "n d"], t: float
) -> Iterator[tuple[slice, Look]]:
    """Chunks of states and how the components see them: (rows, look)."""
    times = torch.full((len(x_t),), t, dtype=torch.float64)
    return mixture.looks(x_t, schedule.alpha(times), schedule.variance(times))


def oracle_pairs(mixture: GaussianMixture, schedule: Schedule, t: float, noise: Noise) -> OraclePairs:
    """x_0 ~ data, x_t ~ q(x_t | x_0), and their exact posteriors; one pair a key."""
    x_0, n = mixture.sample(noise.fold(0)), len(noise)
    x_t = schedule.marginal(x_0, x_0.new_full((n,), t), noise.fold(1).normal(*mixture.shape))
    keys = [noise.fold(2).draws(ORACLE_DRAWS)[k * n : (k + 1) * n] for k in range(1, ORACLE_DRAWS)]
    oracle = x_0.repeat(ORACLE_DRAWS, 1, 1)
    mass, trace = x_0.new_empty(n, len(mixture.weights)), x_0.new_empty(n)
    for rows, look in looks(mixture, schedule, x_t, t):
        for k, key in enumerate(keys, start=1):
            oracle[k, rows] = mixture.components.draw(look, key[rows]).float()
        mass[rows] = look.responsibilities.float()
        trace[rows] = mixture.components.covariance_trace(look).float()
    return OraclePairs(x_0, x_t, t, oracle, mass, trace)


def responsibilities(mixture: GaussianMixture, schedule: Schedule, x_0: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
    """p(j | x_0): a look at t = 0."""
    seen = [look.responsibilities.float() for _, look in looks(mixture, schedule, x_0, 0.0)]
    return torch.cat(seen)
