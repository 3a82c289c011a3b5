"""The algebra of Gaussian mixtures seen through Gaussian noise: float64, one chunk at a time, no checks.

Everything rests on one fact: seen through x = a x_0 + s n, n ~ N(0, I), a mixture stays a mixture. In the
eigenbasis Q_j of component j's covariance C_j, with eigenvalues λ and e = Q_jᵀ (x - a m_j),

    log N(x; a m_j, a² C_j + s² I) = -½ Σ_i [ e_i² / (a² λ_i + s²) + log(2π (a² λ_i + s²)) ]
    x_0 | x, j = m_j + Q_j g,   g_i ~ N( a λ_i e_i / (a² λ_i + s²),  λ_i s² / (a² λ_i + s²) )

so that one eigendecomposition per component serves every a and s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ..diffusion.noise import Noise

__all__ = ["Components", "Look", "pick"]


@final
@dataclass(frozen=True, eq=False)
class Look:
    """A chunk of looks x = a x_0 + s n, in the components' eigenbases."""

    a: Float64[Tensor, "b 1 1"]
    s: Float64[Tensor, "b 1 1"]
    e: Float64[Tensor, "b k d"]
    total: Float64[Tensor, "b k d"]  # a² λ + s², the variances of e
    log_joint: Float64[Tensor, "b k"]  # log w_j + log N(x; a m_j, a² C_j + s² I)

    @cached_property
    def log_responsibilities(self) -> Float64[Tensor, "b k"]:
        """log p(j | x)."""
        return self.log_joint.log_softmax(dim=1)


@final
@dataclass(frozen=True, eq=False)
class Components:
    """The components of a mixture: column i of ``axes[j]`` is the eigenvector of ``eigenvalues[j, i]``."""

    log_weights: Float64[Tensor, " k"]
    means: Float64[Tensor, "k d"]
    eigenvalues: Float64[Tensor, "k d"]
    axes: Float64[Tensor, "k d d"]

    def look(self, x: Float64[Tensor, "b d"], a: Float64[Tensor, " b"], s: Float64[Tensor, " b"]) -> Look:
        """Project x = a x_0 + s n on every eigenbasis and weigh the components."""
        k, d = self.means.shape
        a_, s_ = a[:, None, None], s[:, None, None]
        projected_means = torch.einsum("kd,kdi->ki", self.means, self.axes)
        e = (x @ self.axes.transpose(0, 1).reshape(d, k * d)).unflatten(1, (k, d)) - a_ * projected_means
        total = a_**2 * self.eigenvalues + s_**2
        log_density = -0.5 * (e.square() / total + total.log()).sum(dim=2) - 0.5 * d * math.log(2 * math.pi)
        return Look(a_, s_, e, total, self.log_weights + log_density)

    def score(self, look: Look) -> Float64[Tensor, "b d"]:
        """-Σ_j p(j | x) (a² C_j + s² I)⁻¹ (x - a m_j)."""
        return -self._average(look, look.e / look.total)

    def mean(self, look: Look) -> Float64[Tensor, "b d"]:
        """E[x_0 | x]."""
        gain = look.a * self.eigenvalues * look.e / look.total
        return look.log_responsibilities.exp() @ self.means + self._average(look, gain)

    def component_means(self, look: Look) -> Float64[Tensor, "b k d"]:
        """E[x_0 | x, j]."""
        gain = look.a * self.eigenvalues * look.e / look.total
        return self.means + torch.einsum("kdi,bki->bkd", self.axes, gain)

    def component_variances(self, look: Look) -> Float64[Tensor, "b k d"]:
        """The eigenvalues of Cov[x_0 | x, j], whose eigenvectors are the axes."""
        return look.s**2 * self.eigenvalues / look.total

    def covariance_trace(self, look: Look) -> Float64[Tensor, " b"]:
        """tr Cov[x_0 | x] by the law of total variance."""
        between = (self.component_means(look) - self.mean(look)[:, None]).square().sum(dim=2)
        within = self.component_variances(look).sum(dim=2)
        return (look.log_responsibilities.exp() * (within + between)).sum(dim=1)

    def draw(self, look: Look, noise: Noise) -> Float64[Tensor, "b d"]:
        """x_0 ~ p(x_0 | x): pick a component by its responsibility, then draw from its Gaussian alone."""
        j = pick(look.log_responsibilities, noise.fold(0))
        row = torch.arange(len(j), device=j.device)
        eigenvalues, total = self.eigenvalues[j], look.total[row, j]
        gain = look.a[:, 0] * eigenvalues * look.e[row, j] / total
        deviation = look.s[:, 0] * (eigenvalues / total).sqrt()
        return self._place(j, gain + deviation * noise.fold(1).normal(self.means.shape[1]))

    def draw_data(self, noise: Noise) -> Float64[Tensor, "b d"]:
        """x_0 ~ p(x_0), from the same keys: the posterior of a look that shows nothing, a = 0."""
        j = pick(self.log_weights.expand(len(noise), -1), noise.fold(0))
        return self._place(j, self.eigenvalues[j].sqrt() * noise.fold(1).normal(self.means.shape[1]))

    def _average(self, look: Look, g: Float64[Tensor, "b k d"]) -> Float64[Tensor, "b d"]:
        """Σ_j p(j | x) Q_j g_j."""
        k, d = self.means.shape
        weighted = look.log_responsibilities.exp()[:, :, None] * g
        return weighted.flatten(1) @ self.axes.transpose(1, 2).reshape(k * d, d)

    def _place(self, j: Int[Tensor, " b"], g: Float64[Tensor, "b d"]) -> Float64[Tensor, "b d"]:
        """m_j + Q_j g with one j a row; the rows of a component share one product."""
        x = torch.empty_like(g)
        for component in j.unique().tolist():
            rows = (j == component).nonzero().flatten()
            x[rows] = self.means[component] + g[rows] @ self.axes[component].T
        return x


def pick(log_probabilities: Float64[Tensor, "b k"], noise: Noise) -> Int[Tensor, " b"]:
    """One component a row, by inverting the cumulative distribution at the row's uniform."""
    cumulative = log_probabilities.exp().cumsum(dim=1)
    level = noise.uniform().double()[:, None] * cumulative[:, -1:]
    return (cumulative < level).sum(dim=1)
