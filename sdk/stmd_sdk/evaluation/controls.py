"""Posteriors that are wrong on purpose, built from the exact one: a certificate must reject them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule
from ..mixtures.algebra import Look
from ..mixtures.law import GaussianMixture
from .oracle import looks

__all__ = ["MeanPosterior", "MomentMatchedPosterior", "ScaledPosterior", "control_posteriors"]


@final
@dataclass(frozen=True)
class MeanPosterior:
    """The posterior mean, always: what a regression learns."""

    mixture: GaussianMixture
    schedule: Schedule

    def __call__(self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b d"]:
        """E[x_0 | x_t]; ``noise`` is not used."""
        return self.mixture.posterior_mean(x_t, t, self.schedule)


@final
@dataclass(frozen=True)
class ScaledPosterior:
    """Exact draws drawn towards (or away from) the posterior mean by ``factor``."""

    mixture: GaussianMixture
    schedule: Schedule
    factor: float = 0.95

    def __call__(self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b d"]:
        """E[x_0 | x_t] + factor (x_0 - E[x_0 | x_t])."""
        mean = self.mixture.posterior_mean(x_t, t, self.schedule)
        return mean + self.factor * (self.mixture.draw_posterior(x_t, t, noise, self.schedule) - mean)


@final
@dataclass(frozen=True)
class MomentMatchedPosterior:
    """The Gaussian with the posterior's mean and covariance: right in two moments, blind to modes."""

    mixture: GaussianMixture
    schedule: Schedule

    def __call__(self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b d"]:
        """Draw N(E[x_0 | x_t], Cov[x_0 | x_t])."""
        x_0 = torch.empty_like(x_t)
        for time in t.unique().tolist():
            own = (t == time).nonzero().flatten()
            normal = noise.normal(x_t.shape[1])[own].double()
            for rows, look in looks(self.mixture, self.schedule, x_t[own], time):
                mean, covariance = self._moments(look)
                spread = torch.linalg.cholesky(covariance) @ normal[rows, :, None]
                x_0[own[rows]] = (mean + spread[:, :, 0]).to(x_0)
        return x_0

    def _moments(self, look: Look) -> tuple[Float64[Tensor, "b d"], Float64[Tensor, "b d d"]]:
        """Mean m and covariance Σ_j π_j (C_j + (m_j - m) (m_j - m)ᵀ); C_j depends on t, which rows share."""
        components = self.mixture.components
        mass, means = look.responsibilities, components.component_means(look)
        mean = torch.einsum("bk,bkd->bd", mass, means)
        variances = components.component_variances(look)[0]
        within = torch.einsum("kid,ki,kie->kde", components.axes, variances, components.axes)
        between = mass.sqrt()[:, :, None] * (means - mean[:, None])
        return mean, torch.einsum("bk,kde->bde", mass, within) + between.mT @ between


def control_posteriors(mixture: GaussianMixture, schedule: Schedule) -> dict[str, Posterior]:
    """The three controls by name. One Gaussian alone *is* its moment match: it has two."""
    wrong: dict[str, Posterior] = {
        "mean only": MeanPosterior(mixture, schedule),
        "spread × 0.95": ScaledPosterior(mixture, schedule),
    }
    if len(mixture.weights) > 1:
        wrong["moment-matched"] = MomentMatchedPosterior(mixture, schedule)
    return wrong
