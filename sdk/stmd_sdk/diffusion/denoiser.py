"""The seam of denoisers: what every pretrained diffusion model is, whatever it was trained to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from .network import Network
from .schedule import Schedule, expand

__all__ = ["Denoiser", "EpsilonDenoiser"]


@runtime_checkable  # for the checks of annotations in the tests
class Denoiser(Protocol):
    """E[x_0 | x_0 + σ n = x], n ~ N(0, I): the field's convention (Karras et al., 2022), one σ a sample."""

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Float[Tensor, " b"], /) -> Float[Tensor, "b *d"]:
        """The posterior mean of each sample."""
        ...


@final
@dataclass(frozen=True)
class EpsilonDenoiser:
    """The denoiser of a network that predicts the noise ε in x_t = α_t x_0 + σ_t ε, given (x_t; t): DDPM's."""

    network: Network
    schedule: Schedule

    def epsilon(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b *d"]:
        """The network's estimate of the noise in x_t."""
        return self.network(x_t, t[:, None])

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Float[Tensor, " b"], /) -> Float[Tensor, "b *d"]:
        """x - σ ε(α_t x, t) at the time whose σ_t / α_t is ``sigma``."""
        t = self.schedule.time(sigma)
        return x - expand(sigma, x) * self.epsilon(expand(self.schedule.alpha(t), x) * x, t)
