"""Gaussian mixtures by likelihood: expectation maximisation as a generator of steps (Dempster et al., 1977)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from stmd_sdk.mixtures.algebra import Components, Look

__all__ = ["Fit", "ascend", "maximised"]

CHUNK = 2**19  # numbers in one array [rows, k, d]: 2 MiB, which caches hold
NOTHING = 1e-8  # the responsibility below which a sample is none of a Gaussian's


@final
@dataclass(frozen=True, eq=False)
class Fit:
    """Σ_k w_k N(m_k, C_k), in float64; samples are weighed in float32, as the model will."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    covariances: Float[Tensor, "k d d"]

    @cached_property
    def components(self) -> Components:
        """The Gaussians in their eigenbases."""
        return Components.of(self.weights, self.means, self.covariances).to(torch.float32)

    def log_density(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """log p(x), float64."""
        constant = 0.5 * x.shape[1] * math.log(2 * math.pi)
        return torch.cat([look.log_joint.logsumexp(dim=1).double() - constant for look in self._looks(x)])

    def responsibilities(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """p(k | x), the E-step."""
        return torch.cat([look.responsibilities for look in self._looks(x)])

    def _looks(self, x: Float[Tensor, "n d"]) -> Iterator[Look]:
        for rows in x.float().split(max(1, CHUNK // self.means.numel())):
            yield self.components.look(rows, rows.new_ones(len(rows)), rows.new_zeros(len(rows)))


def ascend(x: Float[Tensor, "n d"], fit: Fit, floor: float) -> Iterator[Fit]:
    """``fit``, then what each step makes of it: the likelihood of ``x`` never falls while no Gaussian is dropped."""
    while True:
        yield fit
        fit = maximised(x, fit.responsibilities(x), floor)


def maximised(x: Float[Tensor, "n d"], shares: Float[Tensor, "n k"], floor: float) -> Fit:
    """The M-step: the likeliest Gaussians of samples that belong to them by ``shares``, with variances >= ``floor``.

    Among covariances whose eigenvalues are at least ``floor`` the likeliest one is the samples' own with its smaller
    eigenvalues raised to it, so that the floor costs no monotony; without one a Gaussian could shrink onto a sample.
    Gaussians left with no more than d samples are dropped: they would be sure of what they cannot know.
    """
    alive = shares.sum(dim=0, dtype=torch.float64) > x.shape[1]
    counts, means, covariances = zip(*(_moments(x, share, floor) for share in shares.T[alive]), strict=True)
    total = torch.stack(counts)
    return Fit(total / total.sum(), torch.stack(means), torch.stack(covariances))


def _moments(x: Float[Tensor, "n d"], share: Float[Tensor, " n"], floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """How many samples they are, their mean, and their covariance with its floor."""
    own = share > NOTHING
    share, x = share[own].double(), x[own].double()
    count = share.sum()
    mean = share @ x / count
    apart = x - mean
    values, axes = torch.linalg.eigh((share[:, None] * apart).T @ apart / count)
    return count, mean, axes @ torch.diag(values.clamp(min=floor)) @ axes.T
