"""Posteriors: x_0 ~ p(x_0 | x_t), by a flow, by a denoiser's point estimate and by Mean Flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from .denoiser import Denoiser
from .integrator import Integrator, average_steps
from .noise import AbstractNoise, Key, Noise
from .schedule import Schedule, expand
from .target import AbstractTarget
from .velocity import NetworkVelocity, Velocity

__all__ = ["FlowPosterior", "MeanFlowPosterior", "PointPosterior", "Posterior", "bounded"]


@runtime_checkable
class Posterior(Protocol):
    """x_0 ~ p(x_0 | x_t), one t a sample."""

    def __call__(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        """Draw x_0 for each sample."""
        ...


def _clamped(x_0: Tensor, bound: float | None) -> Tensor:
    return x_0 if bound is None else x_0.clamp(-bound, bound)


@final
@dataclass(frozen=True)
class FlowPosterior:
    """A draw of y by the conditional flow given (x_t, t), and x_0 of y (20-22): STMD's draw of p(x_0 | x_t).

    Costs M = ``mean_flow_steps`` evaluations of the velocity, by the rule ``integrate``. With a ``bound`` draws are
    clamped to [-bound, bound], for a network that was trained so: clamped without, draws are too narrow.
    """

    velocity: Velocity
    target: AbstractTarget
    mean_flow_steps: int = 1
    bound: float | None = None
    integrate: Integrator = average_steps

    def draw_y(
        self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: AbstractNoise, /
    ) -> Float[Tensor, "b *d"]:
        """Draw what the flow generates."""
        return self.integrate(self.velocity, noise.normal(*x_t.shape[1:]), x_t, t, self.mean_flow_steps)

    def __call__(
        self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: AbstractNoise, /
    ) -> Float[Tensor, "b *d"]:
        """Draw x_0: y, decoded; or in one step what a network for x_0 puts out, as y of it and back is itself."""
        velocity, one_step = self.velocity, self.mean_flow_steps == 1 and self.integrate is average_steps
        if one_step and isinstance(velocity, NetworkVelocity) and velocity.output == "x0":
            x_0 = velocity.raw(noise.normal(*x_t.shape[1:]), torch.zeros_like(t), torch.ones_like(t), x_t, t)
        else:
            x_0 = self.target.decode(self.draw_y(x_t, t, noise), x_t, t)
        return _clamped(x_0, self.bound)


@final
@dataclass(frozen=True)
class PointPosterior:
    """The point estimate x_0 = clip(D(x_t / α_t, σ_t / α_t)) of a denoiser.

    It is the posterior's mean, not a draw: with it the loop is DDPM's ancestral sampler (Ho et al., 2020).
    ``bound`` is the range of the data, None where it has none.
    """

    denoiser: Denoiser
    schedule: Schedule
    bound: float | None = 1.0

    def __call__(
        self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: AbstractNoise, /
    ) -> Float[Tensor, "b *d"]:
        """Estimate x_0; ``noise`` is not used."""
        alpha = self.schedule.alpha(t)
        return _clamped(self.denoiser(x_t / expand(alpha, x_t), self.schedule.sigma(t) / alpha), self.bound)


@final
@dataclass(frozen=True)
class MeanFlowPosterior:
    """Deterministic Mean Flow (Geng et al., 2025) with x_1 as z_1: it knows t = 1 only."""

    velocity: Velocity
    mean_flow_steps: int = 1

    def __call__(
        self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: AbstractNoise, /
    ) -> Float[Tensor, "b *d"]:
        """Map x_1 to x_0; ``noise`` is not used."""
        return average_steps(self.velocity, x_t, x_t, t, self.mean_flow_steps)


def bounded(
    posterior: Callable[[Tensor, Tensor, Key], Tensor], bound: float
) -> Callable[[Tensor, Tensor, Key], Tensor]:
    """The same posterior, its draws clamped to [-bound, bound], where all data lie."""

    def draw(x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Key, /) -> Float[Tensor, "b *d"]:
        return _clamped(posterior(x_t, t, noise), bound)

    return draw
