"""Noise models, and a measurement as a log-likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError
from .protocol import Operator

__all__ = ["GaussianNoise", "Measurement", "NoiseModel", "PoissonNoise"]

DARK = 1e-6  # counts: a rate of zero would make every bright pixel impossible


@final
@dataclass(frozen=True)
class GaussianNoise:
    """y ~ N(A x, sigma² I)."""

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise InvalidArgumentError(f"sigma must be positive and finite, got {self.sigma}")

    def draw(self, clean: Float[Tensor, "b *m"], noise: Noise) -> Float[Tensor, "b *m"]:
        """Noisy measurements of clean ones."""
        return clean + self.sigma * noise.normal(*clean.shape[1:])

    def log_likelihood(self, clean: Float[Tensor, "b *m"], y: Float[Tensor, "1 *m"]) -> Float[Tensor, " b"]:
        """log N(y; clean, sigma² I)."""
        count = y[0].numel()
        squares = ((y - clean) / self.sigma).square().flatten(1).sum(dim=1)
        return -0.5 * squares - count * math.log(self.sigma * math.sqrt(2 * math.pi))

    def log_densities(self, clean: Float[Tensor, "b *m"], y: Float[Tensor, "1 *m"]) -> Float[Tensor, "b *m"]:
        """The same, value by value of y."""
        return -0.5 * ((y - clean) / self.sigma).square() - math.log(self.sigma * math.sqrt(2 * math.pi))

    def check(self, y: Float[Tensor, "1 *m"]) -> None:
        """Every finite y is possible."""


@final
@dataclass(frozen=True)
class PoissonNoise:
    """Photon counts: k ~ Poisson(peak (A x + 1) / 2), y = 2 k / peak - 1. A x = 1 makes ``peak`` photons."""

    peak: float

    def __post_init__(self) -> None:
        if not 0 < self.peak < math.inf:
            raise InvalidArgumentError(f"peak must be positive and finite, got {self.peak}")

    def draw(self, clean: Float[Tensor, "b *m"], noise: Noise) -> Float[Tensor, "b *m"]:
        """Noisy measurements of clean ones: the smallest k whose cumulative probability reaches a uniform."""
        rate, level = self._rate(clean).double(), noise.uniform(*clean.shape[1:]).double()
        low, high = torch.full_like(rate, -1.0), (rate + 12 * rate.sqrt() + 40).ceil()
        while bool((high - low > 1).any()):
            middle = ((low + high) / 2).floor()
            reached = torch.special.gammaincc(middle + 1, rate) >= level
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return (2 * high / self.peak - 1).to(clean)

    def log_likelihood(self, clean: Float[Tensor, "b *m"], y: Float[Tensor, "1 *m"]) -> Float[Tensor, " b"]:
        """log Poisson(k; rate)."""
        return self.log_densities(clean, y).flatten(1).sum(dim=1)

    def log_densities(self, clean: Float[Tensor, "b *m"], y: Float[Tensor, "1 *m"]) -> Float[Tensor, "b *m"]:
        """The same, value by value of y."""
        k, rate = self.peak * (y + 1) / 2, self._rate(clean)
        return k * rate.log() - rate - torch.lgamma(k + 1)

    def check(self, y: Float[Tensor, "1 *m"]) -> None:
        """Raise unless y holds counts, which are integers of at least 0."""
        k = self.peak * (y + 1) / 2
        if not bool(((k - k.round()).abs() < 1e-2).all()) or bool((k < -1e-2).any()):
            raise InvalidArgumentError(
                f"with PoissonNoise({self.peak}) y must be 2 k / peak - 1 of counts k >= 0; its values are others"
            )

    def _rate(self, clean: Tensor) -> Tensor:
        return (self.peak * (clean + 1) / 2).clamp(min=DARK)


NoiseModel = GaussianNoise | PoissonNoise


@final
@dataclass(frozen=True, eq=False)
class Measurement:
    """One measurement y [1, *m] of an operator under a noise model; called, it is log p(y | x).

    ``operator`` is any object with a method ``A``, a deepinv physics among them.
    """

    operator: Operator
    y: Float[Tensor, "1 *m"]
    noise: NoiseModel

    def __post_init__(self) -> None:
        if self.y.ndim == 0 or len(self.y) != 1 or not bool(self.y.isfinite().all()):
            raise InvalidArgumentError(f"y must be one finite measurement [1, ...], got {list(self.y.shape)}")
        self.noise.check(self.y)

    @classmethod
    def of(cls, operator: Operator, x: Float[Tensor, "1 *d"], noise_model: NoiseModel, noise: Noise) -> Measurement:
        """Measure a known x: for experiments."""
        return cls(operator, noise_model.draw(operator.A(x), noise), noise_model)

    def __call__(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        """log p(y | x)."""
        clean = self._clean(x)
        return self.noise.log_likelihood(clean, self.y.to(clean))

    def log_densities(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """log p(y_i | x) of each value of y: the noise makes them independent given x."""
        clean = self._clean(x)
        return self.noise.log_densities(clean, self.y.to(clean))

    def _clean(self, x: Tensor) -> Tensor:
        clean: Any = self.operator.A(x)
        if clean.shape[1:] != self.y.shape[1:]:
            raise InvalidArgumentError(
                f"the operator measures shape {list(clean.shape[1:])}, y has {list(self.y.shape[1:])}"
            )
        return clean
