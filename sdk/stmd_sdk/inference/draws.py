"""What came of chains, particles and Gibbs moves: draws, and how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from .resampling import systematic
from .summary import PosteriorSummary, posterior_summary

__all__ = ["ChainDraws", "GibbsDraws", "SteeredDraws"]


@final
@dataclass(frozen=True, eq=False)
class ChainDraws:
    """The chains' last states, one equally weighted draw of p(x_0 | y) each, and how far to trust them.

    ``acceptance`` is the accepted share by noise level t, of the steps at the full likelihood. ``ess`` and
    ``r_hat`` are the least effective sample size and the largest R̂ over log L and 8 random projections, of those
    ``steps`` alone; None if there were fewer than 4. Of tempered chains ``log_evidence`` is log p(y), with a standard
    error of about √(1/roots), and ``roots`` how many of the starts they effectively go back to; else both are None.
    """

    samples: Float[Tensor, "n *d"]
    log_likelihood: Float[Tensor, " n"]
    acceptance: dict[float, float]
    ess: float | None
    r_hat: float | None
    log_evidence: float | None
    roots: float | None
    steps: int

    @property
    def log_weights(self) -> Float[Tensor, " n"]:
        """Zeros."""
        return torch.zeros_like(self.log_likelihood)


@final
@dataclass(frozen=True, eq=False)
class SteeredDraws:
    """Weighted draws of p(x_0) exp(reward) and log E[exp(reward)].

    ``ess`` is how many of the starts the weighted samples effectively go back to: the evidence has a relative error
    of about √(1/ess). ``path_ess`` is the effective share of the weights before each step's resampling.
    """

    samples: Float[Tensor, "n *d"]
    log_weights: Float[Tensor, " n"]
    ess: float
    path_ess: tuple[float, ...]
    log_evidence: float

    def resampled(self, seed: int) -> Float[Tensor, "n *d"]:
        """As many equally weighted draws, some of them more than once."""
        rows = systematic(self.log_weights, Noise.of(seed, 1, device=self.log_weights.device))
        return self.samples[rows]


@final
@dataclass(frozen=True, eq=False)
class GibbsDraws:
    """Equally weighted draws of p(x_0 | y) by split Gibbs sampling, each for ``evaluations`` of the network.

    ``levels`` are the couplings ρ of the moves. ``exact``: the last of them is small enough for the posterior itself;
    else the draws are those of a likelihood with more noise: of deviation ρ s along the gains s > sigma / ρ of a
    linear operator, of any other likelihood that of x + N(0, ρ² I). Of resampled draws ``ess`` is the effective share
    at each level before they were resampled, ``roots`` how many of the starts they effectively go back to, and
    ``log_evidence`` log p(y), off by some √(1/roots); else all three are None.
    """

    samples: Float[Tensor, "n *d"]
    levels: tuple[float, ...]
    evaluations: int
    exact: bool
    log_evidence: float | None
    ess: tuple[float, ...] | None
    roots: float | None

    def summary(self, *, level: float = 0.9) -> PosteriorSummary:
        """Mean, deviation and central intervals of probability ``level``."""
        return posterior_summary(self.samples, level=level)
