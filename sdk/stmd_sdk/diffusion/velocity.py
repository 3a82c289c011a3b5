"""The seam of velocities, what the conditional flow moves by, and those that a network learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .network import Network
from .schedule import expand
from .target import AbstractAffineTarget, AbstractTarget

__all__ = ["TAU_FLOOR", "NetworkVelocity", "Output", "UnconditionalVelocity", "Velocity"]

Output = Literal["velocity", "x0", "correction"]
"""What the network's output means: the average velocity u; the clean x_0, with y of it and u = (z - y) / τ; or what u
is beyond the average velocity from N(0, I) to N(0, I), for a target whose y is close to that.

Images lie near a thin set, noise and velocities do not: a network that outputs x_0 need not cancel the noise of its
inputs pixel by pixel (Lu et al., 2026, pixel Mean Flows; Li and He, 2025, for diffusion).
"""

TAU_FLOOR = 0.05


@runtime_checkable  # for the checks of annotations in the tests
class Velocity(Protocol):
    """u(z, r, τ | x_t, t): the average velocity of the conditional flow (20) between τ and r, 0 <= r <= τ <= 1.

    What losses regress, posteriors integrate and bounds differentiate; one time of each kind a sample.
    """

    def __call__(
        self,
        z: Float[Tensor, "b *d"],
        r: Float[Tensor, " b"],
        tau: Float[Tensor, " b"],
        x_t: Float[Tensor, "b *d"],
        t: Float[Tensor, " b"],
        /,
    ) -> Float[Tensor, "b *d"]:
        """The velocity of each sample."""
        ...


@final
@dataclass(frozen=True)
class NetworkVelocity:
    """The velocity of a network, which takes [z, x_t] on the channel axis and the times (τ, τ - r, t) (20-22)."""

    network: Network
    target: AbstractTarget
    output: Output = "velocity"

    @staticmethod
    def times(r: Float[Tensor, " b"], tau: Float[Tensor, " b"], t: Float[Tensor, " b"]) -> Float[Tensor, "b 3"]:
        """(τ, τ - r, t): that trains better than (r, τ, t)."""
        return torch.stack([tau, tau - r, t], dim=1)

    def raw(self, z: Tensor, r: Tensor, tau: Tensor, x_t: Tensor, t: Tensor, /) -> Tensor:
        """What the network puts out."""
        return self.network(torch.cat([z, x_t], dim=1), self.times(r, tau, t))

    def __call__(self, z: Tensor, r: Tensor, tau: Tensor, x_t: Tensor, t: Tensor, /) -> Tensor:
        """Pack the network's input and interpret its output."""
        raw = self.raw(z, r, tau, x_t, t)
        match self.output, self.target:
            case "velocity", _:
                return raw
            case "correction", _:
                return raw + _gaussian_velocity(z, r, tau)
            case "x0", AbstractAffineTarget() as target:
                return _velocity_towards(target.residual(raw, x_t, t), z, tau)
            case _:
                raise AssertionError("output 'x0' needs a target whose x_0 has one y, as the spec has it")


@final
@dataclass(frozen=True)
class UnconditionalVelocity:
    """The velocity of a network that knows nothing of (x_t, t): it takes z and the times (τ, τ - r), as Mean Flow's."""

    network: Network
    output: Output = "velocity"

    @staticmethod
    def times(r: Float[Tensor, " b"], tau: Float[Tensor, " b"]) -> Float[Tensor, "b 2"]:
        """(τ, τ - r)."""
        return torch.stack([tau, tau - r], dim=1)

    def __call__(self, z: Tensor, r: Tensor, tau: Tensor, x_t: Tensor, t: Tensor, /) -> Tensor:
        """Pack the network's input and interpret its output."""
        raw = self.network(z, self.times(r, tau))
        return raw if self.output == "velocity" else _velocity_towards(raw, z, tau)


def _velocity_towards(y: Tensor, z: Tensor, tau: Tensor) -> Tensor:
    """The average velocity from z_τ to the endpoint y; τ is cut from below, where rounding would blow up."""
    return (z - y) / expand(tau.clamp(min=TAU_FLOOR), z)


def _gaussian_velocity(z: Tensor, r: Tensor, tau: Tensor) -> Tensor:
    """The average velocity of the flow (20) from N(0, I) to y ~ N(0, I), which scales z_τ to the deviation of z_r.

    With A = (1-τ)² + τ², the variance of z_τ, and B that of z_r, it is (1 - √(B/A)) z / (τ - r), without its pole.
    """
    a, b = (((1 - time) ** 2 + time**2).sqrt() for time in (tau, r))
    return expand(2 * (tau + r - 1) / (a * (a + b)), z) * z
