"""The algebra of Gaussian mixtures seen through Gaussian noise: one chunk at a time, no checks.

Everything rests on one fact: seen through x = a x_0 + s n, n ~ N(0, I), a mixture stays a mixture. In the
eigenbasis Q_j of component j's covariance C_j, with eigenvalues λ and e = Q_jᵀ (x - a m_j),

    log N(x; a m_j, a² C_j + s² I) = -½ Σ_i [ e_i² / (a² λ_i + s²) + log(2π (a² λ_i + s²)) ]
    x_0 | x, j = m_j + Q_j g,   g_i ~ N( a λ_i e_i / (a² λ_i + s²),  λ_i s² / (a² λ_i + s²) )

so that one eigendecomposition per component serves every a and s. Numbers are of the components' type: float64 where
a mixture is an oracle (:mod:`.law`), float32 where it is part of a model (:mod:`.local`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.noise import Noise

__all__ = ["Components", "Look", "entry", "interval"]


@final
@dataclass(frozen=True, eq=False)
class Look:
    """A chunk of looks x = a x_0 + s n, in the components' eigenbases."""

    a: Float[Tensor, "b 1 1"]
    variance: Float[Tensor, "b 1 1"]  # s²
    e: Float[Tensor, "b k d"]
    total: Float[Tensor, "b k d"]  # a² λ + s², the variances of e
    log_joint: Float[Tensor, "b k"]  # log w_j + log N(x; a m_j, a² C_j + s² I), less its constant -½ d log 2π

    @cached_property
    def responsibilities(self) -> Float[Tensor, "b k"]:
        """p(j | x)."""
        return self.log_joint.softmax(dim=1)


@final
@dataclass(frozen=True, eq=False)
class Components:
    """The components of a mixture: row i of ``axes[j]`` is the eigenvector of ``eigenvalues[j, i]``, which rise."""

    log_weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    eigenvalues: Float[Tensor, "k d"]
    axes: Float[Tensor, "k d d"]
    centres: Float[Tensor, "k d"]  # the means along the axes

    @classmethod
    def of(
        cls, weights: Float[Tensor, " k"], means: Float[Tensor, "k d"], covariances: Float[Tensor, "k d d"]
    ) -> Components:
        """The components of Σ_j w_j N(m_j, C_j)."""
        eigenvalues, axes = torch.linalg.eigh(covariances)
        return cls(weights.log(), means, eigenvalues, axes.mT.contiguous(), torch.einsum("kd,kdi->ki", means, axes))

    def to(self, to: torch.device | torch.dtype) -> Components:
        """The same elsewhere, or in another precision."""
        return Components(*(table.to(to) for table in vars(self).values()))

    def along(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b k d"]:
        """Q_jᵀ x: x along the axes of each component."""
        k, d = self.means.shape
        return (x @ self.axes.reshape(k * d, d).T).unflatten(1, (k, d))

    def look(self, x: Float[Tensor, "b d"], a: Float[Tensor, " b"], variance: Float[Tensor, " b"]) -> Look:
        """Project x = a x_0 + s n on every eigenbasis and weigh the components; ``variance`` is s²."""
        a_, variance_ = a[:, None, None], variance[:, None, None]
        # Few passes over [b, k, d], which is where the time goes.
        e = torch.addcmul(self.along(x), a_, self.centres, value=-1)
        total = torch.addcmul(variance_, a_**2, self.eigenvalues)
        log_joint = self.log_weights - 0.5 * torch.addcdiv(total.log(), e.square(), total).sum(dim=2)
        return Look(a_, variance_, e, total, log_joint)

    def score(self, look: Look) -> Float[Tensor, "b d"]:
        """-Σ_j p(j | x) (a² C_j + s² I)⁻¹ (x - a m_j)."""
        return -self._average(look, look.e / look.total)

    def mean(self, look: Look) -> Float[Tensor, "b d"]:
        """E[x_0 | x]."""
        return look.responsibilities @ self.means + self._average(look, self._pull(look))

    def component_means(self, look: Look) -> Float[Tensor, "b k d"]:
        """E[x_0 | x, j]."""
        return self.means + torch.einsum("kid,bki->bkd", self.axes, self._pull(look))

    def component_variances(self, look: Look) -> Float[Tensor, "b k d"]:
        """The eigenvalues of Cov[x_0 | x, j], whose eigenvectors are the axes."""
        return look.variance * self.eigenvalues / look.total

    def covariance_trace(self, look: Look) -> Float[Tensor, " b"]:
        """tr Cov[x_0 | x] by the law of total variance."""
        between = (self.component_means(look) - self.mean(look)[:, None]).square().sum(dim=2)
        within = self.component_variances(look).sum(dim=2)
        return (look.responsibilities * (within + between)).sum(dim=1)

    def given(self, look: Look, j: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and deviation of g, x_0 = m_j + Q_j g, given x and one component a row."""
        share = self.eigenvalues[j] / entry(look.total, j)
        return look.a[:, 0] * share * entry(look.e, j), (share * look.variance[:, 0]).sqrt()

    def place(self, j: Int[Tensor, " b"], g: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """m_j + Q_j g, with one j a row."""
        return self.means[j] + torch.einsum("bi,bid->bd", g, self.axes[j])

    def draw(self, look: Look, noise: Noise) -> Float[Tensor, "b d"]:
        """x_0 ~ p(x_0 | x): choose a component by its responsibility, then draw from its Gaussian alone."""
        j = interval(noise.fold(0).uniform().to(look.e), look.responsibilities.cumsum(dim=1))
        mean, deviation = self.given(look, j)
        return self.place(j, mean + deviation * noise.fold(1).normal(self.means.shape[1]))

    def draw_data(self, noise: Noise) -> Float[Tensor, "b d"]:
        """x_0 ~ p(x_0), from the same keys: the posterior of a look that shows nothing, a = 0."""
        weights = self.log_weights.exp().cumsum(dim=0).expand(len(noise), -1)
        j = interval(noise.fold(0).uniform().to(weights), weights)
        return self.place(j, self.eigenvalues[j].sqrt() * noise.fold(1).normal(self.means.shape[1]))

    def _pull(self, look: Look) -> Float[Tensor, "b k d"]:
        """The means of every component's g."""
        return look.a * self.eigenvalues * look.e / look.total

    def _average(self, look: Look, g: Float[Tensor, "b k d"]) -> Float[Tensor, "b d"]:
        """Σ_j p(j | x) Q_j g_j."""
        k, d = self.means.shape
        return (look.responsibilities[:, :, None] * g).flatten(1) @ self.axes.reshape(k * d, d)


def interval(u: Float[Tensor, " b"], edges: Float[Tensor, "b k"]) -> Int[Tensor, " b"]:
    """Which of the intervals with these upper ends holds u; the last one, where rounding leaves it above all."""
    return (u[:, None] > edges[:, :-1]).sum(dim=1)


def entry(x: Float[Tensor, "b k *d"], j: Int[Tensor, " b"]) -> Float[Tensor, "b *d"]:
    """Row by row the entry j."""
    return x[torch.arange(x.shape[0], device=x.device), j]
