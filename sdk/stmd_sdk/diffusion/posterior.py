"""Posteriors: x_0 ~ p(x_0 | x_t), by STMD, by DDPM's point estimate and by Mean Flow.

Two protocols are the whole of the architecture: a :class:`Network` maps arrays to arrays, a
:class:`Posterior` draws x_0. Each posterior owns the packing of its network's input and shares it with its
loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .noise import Noise
from .schedule import VPSchedule, expand
from .target import AbstractAffineTarget, AbstractTarget

__all__ = ["DDPMPosterior", "MeanFlowPosterior", "Network", "Output", "Posterior", "STMDPosterior", "bounded"]

Output = Literal["velocity", "x0", "correction"]
"""What the network's output means: the average velocity u; the clean x_0, with y of it and u = (z - y) / τ; or what u
is beyond the average velocity from N(0, I) to N(0, I), for a target whose y is close to that.

Images lie near a thin set, noise and velocities do not: a network that outputs x_0 need not cancel the noise of its
inputs pixel by pixel (Lu et al., 2026, pixel Mean Flows; Li and He, 2025, for diffusion).
"""

TAU_FLOOR = 0.05


@runtime_checkable  # for the checks of annotations in the tests
class Network(Protocol):
    """The backend seam: a module, a compiled module, a graph, a session, an engine, or a lambda in a test."""

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate the network on packed inputs and ``k`` times a sample."""
        ...


@runtime_checkable
class Posterior(Protocol):
    """x_0 ~ p(x_0 | x_t), one t a sample."""

    def __call__(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        """Draw x_0 for each sample."""
        ...


def _velocity_towards(y: Tensor, z: Tensor, tau: Tensor) -> Tensor:
    """The average velocity from z_τ to the endpoint y; τ is cut from below, where rounding would blow up."""
    return (z - y) / expand(tau.clamp(min=TAU_FLOOR), z)


def _gaussian_velocity(z: Tensor, r: Tensor, tau: Tensor) -> Tensor:
    """The average velocity of the flow (20) from N(0, I) to y ~ N(0, I), which scales z_τ to the deviation of z_r.

    With A = (1-τ)² + τ², the variance of z_τ, and B that of z_r, it is (1 - √(B/A)) z / (τ - r), without its pole.
    """
    a, b = (((1 - time) ** 2 + time**2).sqrt() for time in (tau, r))
    return expand(2 * (tau + r - 1) / (a * (a + b)), z) * z


def _clamped(x_0: Tensor, bound: float | None) -> Tensor:
    return x_0 if bound is None else x_0.clamp(-bound, bound)


def _integrate(velocity: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, steps: int) -> Tensor:
    """z_r = z_τ - (τ - r) u(z_τ, r, τ) from τ = 1 to 0 on a uniform grid of ``steps`` Mean Flow steps."""
    grid = torch.linspace(1, 0, steps + 1, dtype=z.dtype, device=z.device)
    rows = z.shape[0]  # len() would freeze the batch of an exported graph
    for tau, r in pairwise(grid):
        z = z - (tau - r) * velocity(z, r.expand(rows), tau.expand(rows))
    return z


@final
@dataclass(frozen=True)
class STMDPosterior:
    """One Mean Flow draw of y given (x_t, t), and x_0 of y: a draw of the learned p(x_0 | x_t) (20-22).

    ``network`` takes [z, x_t] on the channel axis and the times (τ, τ - r, t). With a ``bound`` draws are clamped to
    [-bound, bound], for a network that was trained so: clamped without, draws are too narrow.
    """

    network: Network
    target: AbstractTarget
    output: Output = "velocity"
    mean_flow_steps: int = 1
    bound: float | None = None

    def velocity(self, z: Tensor, r: Tensor, tau: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The average velocity u(z, r, τ | x_t, t); times have shape [b]."""
        raw = self.network(torch.cat([z, x_t], dim=1), torch.stack([tau, tau - r, t], dim=1))
        if self.output == "velocity":
            return raw
        if self.output == "correction":
            return raw + _gaussian_velocity(z, r, tau)
        assert isinstance(self.target, AbstractAffineTarget)  # as the spec has it: x_0 must have one y
        return _velocity_towards(self.target.residual(raw, x_t, t), z, tau)

    def draw_y(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        """Draw what the flow generates, with ``mean_flow_steps`` evaluations of the network."""
        epsilon = noise.normal(*x_t.shape[1:])
        return _integrate(lambda z, r, tau: self.velocity(z, r, tau, x_t, t), epsilon, self.mean_flow_steps)

    def __call__(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        """Draw x_0: y, decoded."""
        return _clamped(self.target.decode(self.draw_y(x_t, t, noise), x_t, t), self.bound)


@final
@dataclass(frozen=True)
class DDPMPosterior:
    """The point estimate x_0 = clip((x_t - σ_t ε(x_t, t)) / α_t) of a noise-predicting network.

    It is the posterior's mean, not a draw: with it the loop is DDPM's ancestral sampler (Ho et al., 2020).
    ``bound`` is the range of the data, None where it has none.
    """

    network: Network
    schedule: VPSchedule
    bound: float | None = 1.0

    def epsilon(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's estimate of the noise in x_t."""
        return self.network(x_t, t[:, None])

    def __call__(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        """Estimate x_0; ``noise`` is not used."""
        alpha, sigma = expand(self.schedule.alpha(t), x_t), expand(self.schedule.sigma(t), x_t)
        return _clamped((x_t - sigma * self.epsilon(x_t, t)) / alpha, self.bound)


@final
@dataclass(frozen=True)
class MeanFlowPosterior:
    """Deterministic Mean Flow (Geng et al., 2025) with x_1 as z_1: it knows t = 1 only.

    ``network`` takes z and the times (τ, τ - r).
    """

    network: Network
    output: Output = "velocity"
    mean_flow_steps: int = 1

    def velocity(self, z: Tensor, r: Tensor, tau: Tensor) -> Tensor:
        """The average velocity u(z, r, τ); times have shape [b]."""
        raw = self.network(z, torch.stack([tau, tau - r], dim=1))
        return raw if self.output == "velocity" else _velocity_towards(raw, z, tau)

    def __call__(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        """Map x_1 to x_0; ``noise`` is not used."""
        return _integrate(self.velocity, x_t, self.mean_flow_steps)


def bounded(posterior: Posterior, bound: float) -> Posterior:
    """The same posterior, its draws clamped to [-bound, bound], where all data lie."""

    def draw(x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        return _clamped(posterior(x_t, t, noise), bound)

    return draw
