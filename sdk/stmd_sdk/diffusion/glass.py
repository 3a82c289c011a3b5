"""The exact velocity of the conditional flow, from any denoiser: two Gaussian looks at x_0 are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from .denoiser import Denoiser
from .schedule import Schedule, expand
from .target import AbstractAffineTarget

__all__ = ["GlassVelocity"]


@final
@dataclass(frozen=True)
class GlassVelocity:
    """E[ε - y | z_τ = z, x_t] for τ and t in (0, 1]: the velocity at τ, whatever r is.

    x_t and z_τ are two looks at x_0 through Gaussian noise; as x_0 = c_skip x_t + c_out y, the second is
    c_out z + (1-τ) c_skip x_t = (1-τ) x_0 + τ c_out ε. Weighted by their precisions they make one look,

        κ = α_t²/σ_t² + (1-τ)²/(τ c_out)²,
        x̄ = (α_t x_t/σ_t² + (1-τ) (c_out z + (1-τ) c_skip x_t) / (τ c_out)²) / κ = x_0 + κ^-½ n,

    and with the denoiser D the velocity is (z - (D(x̄, κ^-½) - c_skip x_t)/c_out) / τ. The target x_0 has
    c_skip = 0 and c_out = 1. Source: GLASS flows (Holderrieth et al., 2025), carried over to the residual target.
    The coefficients are float64, for κ is large where either look is sharp; the states keep their type.
    """

    denoiser: Denoiser
    schedule: Schedule
    target: AbstractAffineTarget

    def __call__(self, z: Tensor, r: Tensor, tau: Tensor, x_t: Tensor, t: Tensor, /) -> Tensor:
        """The velocity of each sample."""
        tau, t = tau.double(), t.double()
        alpha, variance = self.schedule.alpha(t), self.schedule.variance(t)
        c_skip, c_out = self.target.coefficients(t)
        second = (1 - tau) / (tau * c_out) ** 2
        kappa = alpha**2 / variance + (1 - tau) * second
        of_x = (alpha / variance + second * (1 - tau) * c_skip) / kappa
        of_z = second * c_out / kappa
        looked = _times(of_x, x_t) + _times(of_z, z)
        x_0 = self.denoiser(looked, kappa.rsqrt().to(z.dtype))
        return _times(1 / tau, z) - _times(1 / (tau * c_out), x_0) + _times(c_skip / (tau * c_out), x_t)


def _times(coefficient: Tensor, x: Tensor) -> Tensor:
    return expand(coefficient.to(x.dtype), x) * x
