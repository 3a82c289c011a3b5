"""Posteriors that are wrong on purpose, built from the exact one: a certificate must reject them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..noise import Noise
from ..posterior import Posterior
from ..schedule import VPSchedule
from .mixtures import GaussianMixture

__all__ = ["MeanPosterior", "MomentMatchedPosterior", "ScaledPosterior", "control_posteriors"]


@final
@dataclass(frozen=True)
class MeanPosterior:
    """The posterior mean, always: what a regression learns."""

    mixture: GaussianMixture
    schedule: VPSchedule

    def __call__(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise, /
    ) -> Float[Tensor, "b d"]:
        """E[x_0 | x_t]; ``noise`` is not used."""
        return self.mixture.posterior_mean(x_t, t, self.schedule)


@final
@dataclass(frozen=True)
class ScaledPosterior:
    """Exact draws drawn towards (or away from) the posterior mean by ``factor``."""

    mixture: GaussianMixture
    schedule: VPSchedule
    factor: float = 0.95

    def __call__(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise, /
    ) -> Float[Tensor, "b d"]:
        """E[x_0 | x_t] + factor (x_0 - E[x_0 | x_t])."""
        mean = self.mixture.posterior_mean(x_t, t, self.schedule)
        return mean + self.factor * (self.mixture.draw_posterior(x_t, t, noise, self.schedule) - mean)


@final
@dataclass(frozen=True)
class MomentMatchedPosterior:
    """The Gaussian with the posterior's mean and covariance: right in two moments, blind to modes."""

    mixture: GaussianMixture
    schedule: VPSchedule

    def __call__(
        self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise, /
    ) -> Float[Tensor, "b d"]:
        """Draw N(E[x_0 | x_t], Cov[x_0 | x_t])."""
        normal = noise.normal(x_t.shape[1]).double()
        x_0 = torch.empty_like(x_t)
        # The components' own covariances depend on t alone: one set of them serves all rows of a time.
        for time in t.unique():
            rows = t == time
            mean, covariance = self._moments(x_t[rows], float(time))
            spread = torch.linalg.cholesky(covariance) @ normal[rows, :, None]
            x_0[rows] = (mean + spread[:, :, 0]).to(x_0)
        return x_0

    def _moments(self, x_t: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Mean [b, d] and covariance [b, d, d] = Σ_j π_j (C_j + (m_j - m) (m_j - m)ᵀ), in float64."""
        exact = self.mixture.component_posterior(x_t.double(), t, self.schedule)
        mass = exact.log_responsibilities.exp()
        mean = torch.einsum("bk,bkd->bd", mass, exact.means)
        within = torch.einsum(
            "kdi,ki,kei->kde", self.mixture.components.axes, exact.variances[0], self.mixture.components.axes
        )
        between = mass.sqrt()[:, :, None] * (exact.means - mean[:, None])
        return mean, torch.einsum("bk,kde->bde", mass, within) + between.mT @ between


def control_posteriors(mixture: GaussianMixture, schedule: VPSchedule) -> dict[str, Posterior]:
    """The three controls by name. One Gaussian alone *is* its moment match: it has two."""
    wrong: dict[str, Posterior] = {
        "mean only": MeanPosterior(mixture, schedule),
        "spread × 0.95": ScaledPosterior(mixture, schedule),
    }
    if len(mixture.weights) > 1:
        wrong["moment-matched"] = MomentMatchedPosterior(mixture, schedule)
    return wrong
