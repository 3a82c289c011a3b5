"""Objectives: what a network was trained to do, as plain values, and the posterior that it therefore is.

A spec and a recipe hold the same object. To add one: a frozen dataclass with its own ``kind`` and these methods, named
in the union :data:`TrainedObjective`, and its loss in ``stmd_training/recipe.py``. Each says

- ``times`` and ``states``: how many times, and how many states [c, *d], its network takes;
- ``default_steps`` and ``least_steps``: N where the user gives none, and the fewest that are worth a look;
- ``default_flow_steps`` and ``least_flow_steps``: M where the user gives none, and the fewest of a certificate;
- ``draws``: whether its posterior draws p(x_0 | x_t) or knows one point; ``inner_flow``: whether M may exceed 1;
- ``denoiser``: the E[x_0 | x_0 + σ n = x] that its network knows, or an error that says why it knows none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, final

from torch import Tensor

from ..diffusion.denoiser import Denoiser, EpsilonDenoiser, FlowDenoiser
from ..diffusion.glass import GlassVelocity
from ..diffusion.integrator import multistep
from ..diffusion.network import Network
from ..diffusion.posterior import FlowPosterior, MeanFlowPosterior, PointPosterior
from ..diffusion.preconditioning import GivenLevels, PreconditionedDenoiser, Preconditioning
from ..diffusion.schedule import Schedule
from ..diffusion.target import AbstractAffineTarget, AbstractTarget, ResidualTarget, X0Target
from ..diffusion.velocity import NetworkVelocity, Output, UnconditionalVelocity
from ..errors import InvalidArgumentError
from ..mixtures.local import LocalGaussians, MixtureTarget

__all__ = ["DDPM", "STMD", "MeanFlow", "Measured", "Objective", "Pretrained", "Target", "TrainedObjective", "lifted"]

Target = Literal["x0", "residual", "mixture"]
"""What the conditional flow generates: x_0, its residual about one Gaussian's posterior, or about a mixture's."""


@final
@dataclass(frozen=True)
class Measured:
    """What an objective takes from the rest of a spec: the schedule, the data's σ_d and range, a mixture of them."""

    schedule: Schedule
    sigma_data: float
    bound: float | None
    local_gaussians: LocalGaussians | None


@final
@dataclass(frozen=True)
class STMD:
    """Draw p(x_0 | x_t) by a Mean Flow conditioned on (x_t, t), in one evaluation or more.

    A ``bounded`` model was trained to have its draws clamped to its codec's range.
    """

    target: Target = "x0"
    output: Output = "velocity"
    bounded: bool = False
    kind: Literal["stmd"] = "stmd"

    times = 3
    states = 2
    default_steps = 4
    least_steps = 1
    default_flow_steps = 1
    least_flow_steps = 1
    draws = True
    inner_flow = True

    def __post_init__(self) -> None:
        if (self.target, self.output) == ("mixture", "x0"):
            raise InvalidArgumentError("output: cannot be 'x0' with target 'mixture', where x_0 has several y")

    def check_steps(self, inference_steps: int, mean_flow_steps: int) -> None:
        """Any N and M will do."""

    def check_times(self, t: Tensor) -> None:
        """Any t in (0, 1] will do."""

    def check_measured(self, shape: tuple[int, ...], measured: Measured) -> None:
        """Raise for what was measured of data that this objective cannot be trained on, or was not measured."""
        if (self.target == "mixture") != (measured.local_gaussians is not None):
            raise InvalidArgumentError("local_gaussians: target 'mixture' needs them, and no other has them")
        if measured.local_gaussians is not None and shape != (own := (measured.local_gaussians.dimension,)):
            raise InvalidArgumentError(f"local_gaussians: of shape {own}, for samples of shape {shape}")
        if self.bounded and measured.bound is None:
            raise InvalidArgumentError("bounded: needs a codec that has a range, as pixels do")

    def times_at(self, r: Tensor, tau: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """The times that the network takes, as columns."""
        return NetworkVelocity.times(r, tau, t)

    def flow_target(self, measured: Measured) -> AbstractTarget:
        """What the conditional flow generates."""
        if measured.local_gaussians is not None:
            return MixtureTarget(measured.schedule, measured.local_gaussians)
        return X0Target() if self.target == "x0" else ResidualTarget(measured.schedule, measured.sigma_data)

    def posterior(self, network: Network, mean_flow_steps: int, measured: Measured) -> FlowPosterior:
        """One Mean Flow draw."""
        target = self.flow_target(measured)
        velocity = NetworkVelocity(network, target, self.output)
        return FlowPosterior(velocity, target, mean_flow_steps, measured.bound if self.bounded else None)

    def denoiser(self, network: Network, measured: Measured) -> FlowDenoiser:
        """The one inside the flow, where x_0 is affine in y."""
        target = self.flow_target(measured)
        if not isinstance(target, AbstractAffineTarget):
            raise InvalidArgumentError("a model of target 'mixture' knows no E[x_0 | x_t]: x_0 is not affine in its y")
        return FlowDenoiser(NetworkVelocity(network, target, self.output), measured.schedule, target)


@final
@dataclass(frozen=True)
class MeanFlow:
    """The deterministic baseline: x_1 to x_0 by an unconditional Mean Flow (Geng et al., 2025)."""

    output: Literal["velocity", "x0"] = "velocity"
    kind: Literal["meanflow"] = "meanflow"

    times = 2
    states = 1
    default_steps = 1
    least_steps = 1
    default_flow_steps = 1
    least_flow_steps = 1
    draws = False
    inner_flow = True

    def check_steps(self, inference_steps: int, mean_flow_steps: int) -> None:
        """One inference step, of any M."""
        if inference_steps != 1:
            raise InvalidArgumentError("Mean Flow knows t = 1 only: inference_steps must be 1")

    def check_times(self, t: Tensor) -> None:
        """It knows t = 1 only."""
        if not bool((t == 1).all()):
            raise InvalidArgumentError("Mean Flow knows t = 1 only")

    def check_measured(self, shape: tuple[int, ...], measured: Measured) -> None:
        """Nothing but σ_d is measured."""
        _check_no_gaussians(measured)

    def times_at(self, r: Tensor, tau: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """The times that the network takes, as columns."""
        return UnconditionalVelocity.times(r, tau)

    def posterior(self, network: Network, mean_flow_steps: int, measured: Measured) -> MeanFlowPosterior:
        """The map from x_1."""
        return MeanFlowPosterior(UnconditionalVelocity(network, self.output), mean_flow_steps)

    def denoiser(self, network: Network, measured: Measured) -> Denoiser:
        """None: its network never sees x_t."""
        raise InvalidArgumentError("Mean Flow knows t = 1 only: it has no denoiser")


@final
@dataclass(frozen=True)
class DDPM:
    """The many-step baseline: the network predicts the noise in x_t (Ho et al., 2020)."""

    kind: Literal["ddpm"] = "ddpm"

    times = 1
    states = 1
    default_steps = 100
    least_steps = 100
    default_flow_steps = 1
    least_flow_steps = 1
    draws = False
    inner_flow = False

    def check_steps(self, inference_steps: int, mean_flow_steps: int) -> None:
        """Any N; there is no Mean Flow inside."""
        if mean_flow_steps != 1:
            raise InvalidArgumentError("DDPM has no Mean Flow inside: mean_flow_steps must be 1")

    def check_times(self, t: Tensor) -> None:
        """Any t in (0, 1] will do."""

    def check_measured(self, shape: tuple[int, ...], measured: Measured) -> None:
        """Nothing but σ_d is measured."""
        _check_no_gaussians(measured)

    def times_at(self, r: Tensor, tau: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """The time that the network takes, as a column: t."""
        return t[:, None]

    def posterior(self, network: Network, mean_flow_steps: int, measured: Measured) -> PointPosterior:
        """The clipped point estimate."""
        return PointPosterior(self.denoiser(network, measured), measured.schedule, measured.bound)

    def denoiser(self, network: Network, measured: Measured) -> EpsilonDenoiser:
        """The network's own."""
        return EpsilonDenoiser(network, measured.schedule)


@final
@dataclass(frozen=True)
class Pretrained:
    """A denoiser that was trained elsewhere: p(x_0 | x_t) by the exact flow that it determines, in M evaluations.

    ``levels`` say how its network takes a noise level, ``clip`` the range that its x_0 is clipped to. Of mixtures whose
    denoiser is exact M = 16 draws pass every certificate; M = 8 keep .95 to 1.00 of the variance.
    """

    levels: Preconditioning = field(default_factory=GivenLevels)
    clip: float | None = None
    kind: Literal["pretrained"] = "pretrained"

    times = 1
    states = 1
    default_steps = 4
    least_steps = 1
    default_flow_steps = 16
    least_flow_steps = 8
    draws = True
    inner_flow = True

    def __post_init__(self) -> None:
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise InvalidArgumentError(f"clip: must be positive and finite, got {self.clip}")

    def check_steps(self, inference_steps: int, mean_flow_steps: int) -> None:
        """Any N and M will do."""

    def check_times(self, t: Tensor) -> None:
        """Any t in (0, 1] will do: the schedule ends where the network's levels do."""

    def check_measured(self, shape: tuple[int, ...], measured: Measured) -> None:
        """Nothing but σ_d is measured."""
        _check_no_gaussians(measured)

    def times_at(self, r: Tensor, tau: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
        """The time that the network takes, as a column: its own of the level at t."""
        sigma, (least, largest) = schedule.sigma(t) / schedule.alpha(t), self.levels.sigma_range
        return self.levels.scales(sigma.clamp(least, largest)).time[:, None]

    def posterior(self, network: Network, mean_flow_steps: int, measured: Measured) -> FlowPosterior:
        """A draw by the flow of two looks at x_0, one of them the denoiser's."""
        target = ResidualTarget(measured.schedule, measured.sigma_data)
        velocity = GlassVelocity(self.denoiser(network, measured), measured.schedule, target)
        return FlowPosterior(velocity, target, mean_flow_steps, integrate=multistep)

    def denoiser(self, network: Network, measured: Measured) -> PreconditionedDenoiser:
        """Itself."""
        return PreconditionedDenoiser(network, self.levels, self.clip)


TrainedObjective = STMD | MeanFlow | DDPM
Objective = TrainedObjective | Pretrained
BY_KIND: dict[str, type[TrainedObjective]] = {"stmd": STMD, "meanflow": MeanFlow, "ddpm": DDPM}
FLAT = {"target": "x0", "output": "velocity", "bounded": False}


def lifted(values: Mapping[str, Any]) -> dict[str, Any]:
    """``objective``, ``target``, ``output`` and ``bounded`` side by side, as recipes have them, as one table.

    Raises :class:`InvalidArgumentError` for a key that the objective does not have, unless it says what is so anyway.
    """
    kind = values.get("objective", "stmd")
    if not isinstance(kind, str):
        return dict(values)
    if kind not in BY_KIND:
        raise InvalidArgumentError(f"objective: must be one of {', '.join(map(repr, BY_KIND))}, got {kind!r}")
    own = {one.name for one in fields(BY_KIND[kind])}
    given = {key: values[key] for key in FLAT if key in values}
    for key, value in given.items():
        if key not in own and value != FLAT[key]:
            raise InvalidArgumentError(f"{key}: objective {kind!r} has none, only 'stmd' has {value!r}")
    table = {"kind": kind, **{key: value for key, value in given.items() if key in own}}
    return {**{key: value for key, value in values.items() if key not in FLAT}, "objective": table}


def _check_no_gaussians(measured: Measured) -> None:
    if measured.local_gaussians is not None:
        raise InvalidArgumentError("local_gaussians: target 'mixture' needs them, and no other has them")
