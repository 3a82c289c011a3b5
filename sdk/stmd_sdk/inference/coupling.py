"""How a split Gibbs sampler ties x to its noisy copy z: exactly for linear Gaussian measurements, else by slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import AbstractNoise, Noise
from ..diffusion.schedule import Schedule, expand
from ..operators import Clip, GaussianNoise, Mask, Measurement, check_adjoint, check_measurement
from ..operators.protocol import AdjointOperator
from ..operators.solve import Deflation, deflation_of, noisy_copy, turned_copy
from .guidance import LogLikelihood, values_of

__all__ = ["Copying", "Coupling", "LinearCoupling", "SliceCoupling", "coupling_for", "elliptical_slice", "rescaled"]

POINTWISE = (Mask, Clip)  # operators that measure every coordinate alone
SWEEPS, SHRINKS = 8, 60  # slices a move; 60 halvings of an angle leave nothing of it
LEAST_TIME = 1e-3  # the least t that models are trained at
NEAR = 0.1  # the last ρ of a likelihood of unknown width, in deviations of the data
SHARE = 0.5  # the last ρ over σ where the likelihood is Gaussian but not linear: at gain 1 noise of 1.12 σ


_Key_contra = TypeVar("_Key_contra", bound=AbstractNoise, contravariant=True)


@runtime_checkable  # for the checks of annotations in the tests
class Copying(Protocol[_Key_contra]):
    """Draws of z given x and y, by keys of one kind: what annealed draws ask of a coupling."""

    def start(self, x: Float[Tensor, "b *d"], rho: float, noise: _Key_contra) -> Float[Tensor, "b *d"]:
        """The first copy of x, at the coupling ``rho``."""
        ...

    def move(
        self, x: Float[Tensor, "b *d"], z: Float[Tensor, "b *d"], before: float, rho: float, noise: _Key_contra
    ) -> Float[Tensor, "b *d"]:
        """Draw z given x and y, of which the earlier ``z``, drawn at the coupling ``before``, may be part."""
        ...


@runtime_checkable  # for the checks of annotations in the tests
class Coupling(Copying[Noise], Protocol):
    """The law of z given x and y at a coupling ρ, and what it makes of the likelihood of x."""

    @property
    def last(self) -> float:
        """The ρ to end at."""
        ...

    @property
    def exact(self) -> bool:
        """Whether x has the exact posterior at ``last``."""
        ...

    def log_weight(self, x: Float[Tensor, "b *d"], z: Float[Tensor, "b *d"], rho: float) -> Float[Tensor, " b"]:
        """log of what the target at ρ has beside the prior of x, and of z if it is part of the target."""
        ...


@final
@dataclass(frozen=True, eq=False)
class LinearCoupling:
    """y = A x + N(0, σ² I): z by :mod:`stmd_sdk.operators.solve`, and the target p(x) N(y; A x, C_ρ).

    Exact where ``last`` is at most σ / s_max; a ``last`` above it leaves the noise ρ s along gains s > σ / ρ.
    """

    operator: AdjointOperator
    y: Float[Tensor, "1 *m"]
    deflation: Deflation
    last: float

    @property
    def exact(self) -> bool:
        """Whether C_ρ is σ² I at the end."""
        return self.last * self.deflation.largest <= self.deflation.sigma * (1 + 1e-6)

    def start(self, x: Float[Tensor, "b *d"], rho: float, noise: AbstractNoise) -> Float[Tensor, "b *d"]:
        """Drawn given x and y."""
        e, n = noise.fold(0).normal(*x.shape[1:]), noise.fold(1).normal(*self.y.shape[1:])
        return noisy_copy(self.operator, self.deflation, self.y.to(x), x, rho, e.to(x), n.to(x))

    def log_weight(self, x: Float[Tensor, "b *d"], z: Float[Tensor, "b *d"], rho: float) -> Float[Tensor, " b"]:
        """log N(y; A x, C_ρ)."""
        return self.deflation.log_density(self.y.to(x) - self.operator.A(x), rho)

    def move(
        self, x: Float[Tensor, "b *d"], z: Float[Tensor, "b *d"], before: float, rho: float, noise: AbstractNoise
    ) -> Float[Tensor, "b *d"]:
        """An earlier copy turned round: moves √2 times as long as those of independent copies."""
        e = noise.fold(0).normal(*x.shape[1:]).to(x)
        n, other = (noise.fold(k).normal(*self.y.shape[1:]).to(x) for k in (1, 2))
        return turned_copy(self.operator, self.deflation, self.y.to(x), x, z, before, rho, e, n, other)


@final
@dataclass(frozen=True, eq=False)
class SliceCoupling:
    """Any likelihood L: z ∝ L(z)^β N(z; x, ρ² I) by elliptical slices, β = min(1, last / ρ).

    The target is that of the pair, p(x) N(z; x, ρ² I) L(z)^β: at the end x has p(x) ∫ L(z) N(z; x, ρ² I) dz, the
    likelihood seen through noise of deviation ``last``. ``log_likelihood`` gives one number a sample [b], or one
    a coordinate [b, *d] where they are independent, and then each coordinate has a slice of its own.
    """

    log_likelihood: Callable[[Tensor], Tensor]
    last: float
    exact: bool = False

    def start(self, x: Float[Tensor, "b *d"], rho: float, noise: Noise) -> Float[Tensor, "b *d"]:
        """x + ρ e."""
        return x + rho * noise.normal(*x.shape[1:])

    def log_weight(self, x: Float[Tensor, "b *d"], z: Float[Tensor, "b *d"], rho: float) -> Float[Tensor, " b"]:
        """β log L(z)."""
        return self._power(rho) * self.log_likelihood(z).reshape(len(z), -1).sum(dim=1)

    def move(
        self, x: Float[Tensor, "b *d"], z: Float[Tensor, "b *d"], before: float, rho: float, noise: Noise
    ) -> Float[Tensor, "b *d"]:
        """Eight slices from z, its noise in the new measure."""
        z = rescaled(x, z, before, rho)
        for sweep in range(SWEEPS):
            z = elliptical_slice(lambda at: self._power(rho) * self.log_likelihood(at), x, z, rho, noise.fold(sweep))
        return z

    def _power(self, rho: float) -> float:
        return min(1.0, self.last / rho)


def rescaled(x: Float[Tensor, "b *d"], z: Float[Tensor, "b *d"], before: float, rho: float) -> Float[Tensor, "b *d"]:
    """The copy at another coupling: the same noise, ρ over the ``before`` times it."""
    return x + (rho / before) * (z - x)


def elliptical_slice(
    log_likelihood: Callable[[Tensor], Tensor],
    x: Float[Tensor, "b *d"],
    z: Float[Tensor, "b *d"],
    rho: float,
    noise: Noise,
) -> Float[Tensor, "b *d"]:
    """One step that leaves L(z) N(z; x, ρ² I) invariant (Murray, Adams and MacKay, 2010).

    z moves along an ellipse about x through z and a draw ν of N(0, ρ² I), to an angle that shrinks until L is above
    a level drawn below L(z). Of two impossible states, L = 0, one is as good as the other.
    """
    now = log_likelihood(z)
    shape = tuple(now.shape[1:])
    level = now + noise.fold(0).uniform(*shape).log()
    nu = rho * noise.fold(1).normal(*z.shape[1:])
    angle = 2 * math.pi * noise.fold(2).uniform(*shape)
    low, high = angle - 2 * math.pi, angle
    waiting, out = torch.ones_like(now, dtype=torch.bool), z
    for k in range(SHRINKS):
        along = angle if shape else expand(angle, z)
        proposed = x + (z - x) * along.cos() + nu * along.sin()
        taken = waiting & (log_likelihood(proposed) >= level)
        out = torch.where(taken if shape else expand(taken, z), proposed, out)
        waiting = waiting & ~taken
        if not bool(waiting.any()):
            break
        low, high = torch.where(angle < 0, angle, low), torch.where(angle < 0, high, angle)
        angle = low + (high - low) * noise.fold(3 + k).uniform(*shape)
    return out


def coupling_for(
    log_likelihood: LogLikelihood,
    decode: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    decoded_shape: tuple[int, ...],
    schedule: Schedule,
    sigma_data: float,
    device: torch.device,
) -> Coupling:
    """The exact coupling of a linear Gaussian measurement, else slices of the likelihood of decoded samples.

    ρ does not fall below σ_t / α_t at t = 1e-3, which no model has been trained below.
    """
    least = float(schedule.sigma(torch.tensor(LEAST_TIME)) / schedule.alpha(torch.tensor(LEAST_TIME)))
    if not isinstance(log_likelihood, Measurement):
        return SliceCoupling(lambda z: values_of(log_likelihood, decode(z)), max(least, NEAR * sigma_data))
    operator, model = log_likelihood.operator, log_likelihood.noise
    y = check_measurement(operator, log_likelihood.y, decoded_shape, device)
    measured = Measurement(operator, y, model)
    if isinstance(model, GaussianNoise) and isinstance(operator, AdjointOperator) and shape == decoded_shape:
        check_adjoint(operator, shape, device)
        deflation = deflation_of(operator, y, model.sigma)
        return LinearCoupling(operator, y, deflation, max(model.sigma / deflation.largest, least))
    last = SHARE * model.sigma if isinstance(model, GaussianNoise) else NEAR * sigma_data
    if isinstance(operator, POINTWISE) and shape == decoded_shape:
        return SliceCoupling(lambda z: measured.log_densities(decode(z)), max(last, least))
    return SliceCoupling(lambda z: values_of(measured, decode(z)), max(last, least))
