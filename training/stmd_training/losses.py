"""Losses: STMD's, deterministic Mean Flow's and DDPM's, as per-sample losses of one batch.

A loss is a function of a network, clean data and a noise key; equation numbers are those of arXiv 2605.07661.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.diffusion.denoiser import Denoiser, EpsilonDenoiser
from stmd_sdk.diffusion.glass import GlassVelocity
from stmd_sdk.diffusion.labelled import Guidance, given_labels
from stmd_sdk.diffusion.network import Network
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.diffusion.schedule import Schedule, expand
from stmd_sdk.diffusion.target import AbstractAffineTarget, AbstractTarget, X0Target
from stmd_sdk.diffusion.velocity import TAU_FLOOR, NetworkVelocity, Output, UnconditionalVelocity, Velocity
from stmd_sdk.errors import InvalidArgumentError

from .forward_mode import value_and_derivative
from .learned_weights import LossWeights
from .scores import EnergyScore
from .taught import Guided, Taught, guidance_of, guided_rows
from .times import TimeSampler

__all__ = ["DDPMLoss", "Derivative", "ErrorOf", "FlowLoss", "Loss", "MeanFlowLoss", "STMDLoss"]

ErrorOf = Literal["y", "x0"]
Derivative = Literal["jvp", "central"]
"""How the flow loss differentiates along the path: forward mode, or central differences of width 0.01, which are off
by (0.005 / τ)² of the value where the network's output is ``x0``."""

T_MIN = 1e-3
CENTRAL_STEP = 5e-3


@runtime_checkable
class Loss(Protocol):
    """Per-sample losses of one batch."""

    def __call__(self, network: Network, x_0: Float[Tensor, "b *d"], noise: Noise, /) -> Float[Tensor, " b"]:
        """The losses of each sample; their mean is what training descends."""
        ...


def _squared_norm(x: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
    return x.flatten(1).square().sum(1)


def _velocity_and_derivative(
    method: Derivative, velocity: Velocity, z: Tensor, r: Tensor, tau: Tensor, x_t: Tensor, t: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """u(z_τ, r, τ) with its graph, and its derivative v·∂_z u + ∂_τ u along the path, r fixed, without one."""

    def u(z: Tensor, tau: Tensor) -> Tensor:
        return velocity(z, r, tau, x_t, t)

    one = torch.ones_like(tau)
    if method == "jvp" and not torch.is_autocast_enabled(z.device.type):
        return value_and_derivative(u, (z, tau), (v, one))
    # Under autocast the derivative stays float32, at the price of an evaluation of its own.
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        if method == "jvp":
            _, derivative = value_and_derivative(u, (z, tau), (v, one))
        else:
            h = CENTRAL_STEP
            derivative = (u(z + h * v, tau + h) - u(z - h * v, tau - h)) / (2 * h)
    return u(z, tau), derivative


@final
@dataclass(frozen=True)
class FlowLoss:
    """The Mean Flow loss (21, 22) with the adaptive weight (73).

    Regresses u to v - (τ - r) du/dτ, v = ε - y, with a stopped gradient; the derivative is taken without a graph
    and on the rows with r < τ alone. The squared error is weighted by w = 1 / (‖Δ‖² + c)^p, whose minimiser is the
    conditional mean only where ‖Δ‖² concentrates or p = 0. Divided by d^(1 - p), so that its size does not depend on
    the dimension d. With a ``unit`` it is the endpoint's error, Δ max(τ, 0.05), in these units, and not the velocity's.
    """

    times: TimeSampler = TimeSampler()
    power: float = 0.75
    offset: float = 1e-3
    derivative: Derivative = "jvp"

    def __post_init__(self) -> None:
        if not 0 <= self.power < math.inf:
            raise InvalidArgumentError(f"power: must be at least 0, got {self.power}")
        if not 0 < self.offset < math.inf:
            raise InvalidArgumentError(f"offset: must be positive, got {self.offset}")

    def __call__(
        self,
        velocity: Callable[[slice], Velocity],
        y: Float[Tensor, "b *d"],
        epsilon: Float[Tensor, "b *d"],
        tau: Float[Tensor, " b"],
        r: Float[Tensor, " b"],
        x_t: Float[Tensor, "b *d"],
        t: Float[Tensor, " b"],
        unit: Float[Tensor, " b"] | None = None,
        taught: Taught | None = None,
    ) -> Float[Tensor, " b"]:
        """Losses of the flow from ``epsilon`` (τ = 1) to ``y`` (τ = 0) given (x_t, t), at intervals ``times`` drew.

        ``velocity`` is that of some of the rows. Where there is something ``taught`` it takes v's place; that of a
        teacher leaves the losses' minimiser as it is, and the variance of v out of them.
        """
        z = (1 - expand(tau, y)) * y + expand(tau, y) * epsilon
        v = epsilon - y if taught is None else taught(epsilon - y, z, r, tau, x_t, t)
        k = self.times.moving_rows(len(y))
        moving, still = slice(0, k), slice(k, None)
        u, target = [], v.clone()
        if k > 0:
            value, du = _velocity_and_derivative(
                self.derivative, velocity(moving), *(part[moving] for part in (z, r, tau, x_t, t, v))
            )
            u.append(value)
            target[moving] -= expand((tau - r)[moving], du) * du
        if k < len(y):
            u.append(velocity(still)(*(part[still] for part in (z, r, tau, x_t, t))))
        error = _squared_norm(torch.cat(u) - target)
        if unit is not None:
            error = error * (unit * tau.clamp(min=TAU_FLOOR)) ** 2
        weight = 1 / (error.detach() + self.offset) ** self.power
        return weight * error / y[0].numel() ** (1 - self.power)


@final
@dataclass(frozen=True)
class STMDLoss:
    """The paper's loss, and the project's switches: another target, and an ``energy_score`` of weight λ > 0.

    t = 1e-3 + (1 - 1e-3) U^``t_power``, U uniform: 1 is the paper's; above 1 trains small t more, where posteriors of
    separated modes change fastest. ``error_of`` says whose error the losses measure: that of y and its velocity, or
    that of x_0, c_out times y's, which does not blow up small t and τ where the network outputs x_0 and p = 0. With a
    ``bound`` the energy score is that of draws clamped to [-bound, bound], so that values at the ends of the data's
    range, a picture's black, are drawn exactly. With learned ``weights`` both losses are weighed by their size at their
    times. With ``classes`` the network is given the labels of the key's rows; the flow loss learns the guidance that it
    has inside, the energy score is of draws without. ``teacher`` gives the denoiser of a key's rows where one is known,
    whose exact velocity the flow loss then learns.
    """

    schedule: Schedule
    target: AbstractTarget = X0Target()
    output: Output = "velocity"
    flow: FlowLoss = FlowLoss()
    energy_score: EnergyScore = EnergyScore()
    t_power: float = 1.0
    error_of: ErrorOf = "y"
    bound: float | None = None
    weights: LossWeights | None = None
    classes: Classes | None = None
    teacher: Callable[[Noise], Denoiser] | None = None

    def look(self, x_0: Float[Tensor, "b *d"], noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """A time, the noisy look at x_0 that conditions the flow, and what the flow generates: (t, x_t, y)."""
        t = T_MIN + (1 - T_MIN) * noise.fold(0).uniform() ** self.t_power
        x_t = self.schedule.marginal(x_0, t, noise.fold(1).normal(*x_0.shape[1:]))
        return t, x_t, self.target.encode(x_0, x_t, t, noise.fold(5))

    def posterior(self, network: Network, noise: Noise, guidance: Guidance = 1.0) -> FlowPosterior:
        """The one-step posterior that is trained, of the classes of the key's rows."""
        velocity = NetworkVelocity(given_labels(self.classes, network, noise, guidance), self.target, self.output)
        return FlowPosterior(velocity, self.target, bound=self.bound)

    def score(
        self, network: Network, x_0: Tensor, look: tuple[Tensor, Tensor, Tensor], noise: Noise
    ) -> Float[Tensor, " b"]:
        """The energy score of the one-step draws at a ``look``, as that of x_0 or of y: what ``error_of`` says."""
        t, x_t, y = look
        if self.error_of == "y" and self.bound is None:
            return self.energy_score(
                lambda x_t, t, key: self.posterior(network, key).draw_y(x_t, t, key), y, x_t, t, noise
            )
        score = self.energy_score(lambda x_t, t, key: self.posterior(network, key)(x_t, t, key), x_0, x_t, t, noise)
        return score if self.error_of == "x0" else score / self._unit(t) ** self.energy_score.exponent

    def _unit(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """c_out, the size of x_0's errors over y's."""
        match self.target:
            case AbstractAffineTarget() as target:
                return target.coefficients(t)[1]
            case _:
                raise AssertionError("errors of x_0 need a target whose x_0 has one y, as the recipe has it")

    def _taught(self, network: Network, noise: Noise, rows: slice, w: Tensor | None) -> Taught | None:
        """What takes the place of v, of a teacher or of guidance."""
        if self.teacher is None and w is None:
            return None
        exact = None if self.teacher is None else self._exact(self.teacher(noise))
        if w is None:
            return Taught(exact)
        unlabelled = self.posterior(network, replace(noise, labels=None)).velocity
        return Taught(exact, Guided(rows, w[rows], unlabelled))

    def _exact(self, denoiser: Denoiser) -> GlassVelocity:
        match self.target:
            case AbstractAffineTarget() as target:
                return GlassVelocity(denoiser, self.schedule, target)
            case _:
                raise AssertionError("a teacher needs a target whose x_0 has one y, as distilled_recipe has it")

    def __call__(self, network: Network, x_0: Float[Tensor, "b *d"], noise: Noise, /) -> Float[Tensor, " b"]:
        """Flow loss plus λ times the energy score."""
        look = self.look(x_0, noise)
        t, x_t, y = look
        unit = None if self.error_of == "y" else self._unit(t)
        (tau, r), guided = self.flow.times(noise.fold(3)), guided_rows(len(y), self.flow.times.moving_rows(len(y)))
        w = guidance_of(self.classes, noise.fold(6), guided)

        def velocity(rows: slice) -> Velocity:
            return self.posterior(network, noise[rows], 1.0 if w is None else w[rows]).velocity

        taught = self._taught(network, noise, guided, w)
        loss = self.flow(velocity, y, noise.fold(2).normal(*y.shape[1:]), tau, r, x_t, t, unit, taught)
        if self.weights is not None:
            loss = self.weights.flow(loss, tau, r, t)
        if self.energy_score.weight > 0:
            score = self.score(network, x_0, look, noise.fold(4))
            if self.weights is not None:
                score = self.weights.energy_score(score, t)
            loss = loss + self.energy_score.weight * score
        return loss


@final
@dataclass(frozen=True)
class MeanFlowLoss:
    """Mean Flow from x_1 ~ N(0, I) to x_0, which knows nothing of (x_t, t): the deterministic baseline."""

    output: Output = "velocity"
    flow: FlowLoss = FlowLoss()
    classes: Classes | None = None

    def __call__(self, network: Network, x_0: Float[Tensor, "b *d"], noise: Noise, /) -> Float[Tensor, " b"]:
        """Flow loss."""

        def velocity(rows: slice) -> Velocity:
            return UnconditionalVelocity(given_labels(self.classes, network, noise[rows]), self.output)

        (tau, r), epsilon = self.flow.times(noise.fold(3)), noise.fold(2).normal(*x_0.shape[1:])
        return self.flow(velocity, x_0, epsilon, tau, r, epsilon, torch.ones_like(tau))


@final
@dataclass(frozen=True)
class DDPMLoss:
    """Regress the noise in x_t (Ho et al., 2020), t ~ U(1e-3, 1); mean square over dimensions."""

    schedule: Schedule
    classes: Classes | None = None

    def __call__(self, network: Network, x_0: Float[Tensor, "b *d"], noise: Noise, /) -> Float[Tensor, " b"]:
        """Mean squared error of ε."""
        t = T_MIN + (1 - T_MIN) * noise.fold(0).uniform()
        epsilon = noise.fold(1).normal(*x_0.shape[1:])
        denoiser = EpsilonDenoiser(given_labels(self.classes, network, noise), self.schedule)
        estimate = denoiser.epsilon(self.schedule.marginal(x_0, t, epsilon), t)
        return _squared_norm(estimate - epsilon) / x_0[0].numel()
