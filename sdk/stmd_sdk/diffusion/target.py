"""What the conditional flow generates: x_0 itself, or its residual about the posterior mean of one Gaussian.

A target maps x_0 to y and back, given (x_t, t). :mod:`stmd_sdk.mixtures.local` has one for a mixture in the
Gaussian's place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from .noise import Noise
from .schedule import Schedule, expand

__all__ = ["AbstractAffineTarget", "AbstractTarget", "ResidualTarget", "X0Target"]


class AbstractTarget(ABC):
    """A change of variables between x_0 and what the flow generates, given (x_t, t)."""

    @abstractmethod
    def encode(
        self, x_0: Float[Tensor, "b *d"], x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise
    ) -> Float[Tensor, "b *d"]:
        """A y of x_0: where there are several, the one that ``noise`` chooses."""

    @abstractmethod
    def decode(
        self, y: Float[Tensor, "b *d"], x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *d"]:
        """x_0 of y."""


class AbstractAffineTarget(AbstractTarget):
    """y = (x_0 - c_skip x_t) / c_out, with coefficients that depend on t alone."""

    @abstractmethod
    def coefficients(self, t: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """(c_skip, c_out) at t."""

    def residual(
        self, x_0: Float[Tensor, "b *d"], x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *d"]:
        """The one y of x_0."""
        c_skip, c_out = self.coefficients(t)
        return (x_0 - expand(c_skip, x_t) * x_t) / expand(c_out, x_0)

    def encode(
        self, x_0: Float[Tensor, "b *d"], x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise
    ) -> Float[Tensor, "b *d"]:
        """The one y of x_0; ``noise`` is not used."""
        return self.residual(x_0, x_t, t)

    def decode(
        self, y: Float[Tensor, "b *d"], x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b *d"]:
        """x_0 of y."""
        c_skip, c_out = self.coefficients(t)
        return expand(c_skip, x_t) * x_t + expand(c_out, y) * y


@final
@dataclass(frozen=True)
class X0Target(AbstractAffineTarget):
    """y = x_0, the paper's target."""

    def coefficients(self, t: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """(0, 1)."""
        return torch.zeros_like(t), torch.ones_like(t)


@final
@dataclass(frozen=True)
class ResidualTarget(AbstractAffineTarget):
    """y = (x_0 - c_skip x_t) / c_out with the posterior mean and deviation of data N(0, σ_d² I).

    c_skip = α_t σ_d² / (α_t² σ_d² + σ_t²) and c_out = σ_t σ_d / √(α_t² σ_d² + σ_t²). y has about unit
    variance at every t, and the error of a draw shrinks with σ_t, so that more steps refine instead of adding
    up errors. The same coefficients as EDM's preconditioning (Karras et al., 2022), for a generated target.
    """

    schedule: Schedule
    sigma_data: float

    def coefficients(self, t: Float[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """(c_skip, c_out) of the Gaussian posterior."""
        alpha, variance = self.schedule.alpha_and_variance(t)
        total = alpha**2 * self.sigma_data**2 + variance
        return alpha * self.sigma_data**2 / total, self.sigma_data * (variance / total).sqrt()
