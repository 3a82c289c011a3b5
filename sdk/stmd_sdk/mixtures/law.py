"""Gaussian mixtures: data whose posteriors, scores and velocities are known exactly.

A mixture is a data set to train on, its posterior what a trained model should have learnt. Arithmetic is
float64 on the device of the parameters; results have the device and the type of the argument. Large batches
are worked through in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..codecs.codec import Codec, VectorCodec
from ..diffusion.glass import GlassVelocity
from ..diffusion.noise import Noise
from ..diffusion.schedule import Schedule
from ..diffusion.target import AbstractAffineTarget
from ..diffusion.vp import VPSchedule
from ..errors import InvalidArgumentError
from .algebra import Components, Look

__all__ = [
    "ComponentPosterior",
    "GaussianMixture",
    "MixturePosterior",
    "Times",
    "exact_velocity",
]

DEFAULT = VPSchedule()
CHUNK = 2**20  # numbers in one array [rows, k, d]: 8 MiB
DEGENERATE = 1e-10  # smallest eigenvalue of a covariance, relative to its largest

Times = float | Float[Tensor, " b"]
"""One time for all rows, or one a row."""


@final
@dataclass(frozen=True, eq=False)
class ComponentPosterior:
    """p(x_0 | x_t) as a mixture of Gaussians; component j has the covariance Q_j diag(variances_j) Q_jᵀ.

    The rows of ``GaussianMixture.components.axes[j]`` are the columns of Q_j, which does not depend on t.
    """

    log_responsibilities: Float[Tensor, "b k"]
    means: Float[Tensor, "b k d"]
    variances: Float[Tensor, "b k d"]


@final
@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Σ_j w_j N(m_j, C_j): weights [k] that sum to 1, means [k, d], covariances [k, d, d], kept in float64.

    Raises :class:`InvalidArgumentError` for parameters that do not fit together, are not finite, or hold a
    degenerate covariance. Times t lie in [0, 1]; t = 0 means the data themselves.
    """

    weights: Float[Tensor, "..."]
    means: Float[Tensor, "..."]
    covariances: Float[Tensor, "..."]
    name: str = "mixture"

    def __post_init__(self) -> None:
        _check(self.weights, self.means, self.covariances)
        weights = self.weights.double()
        object.__setattr__(self, "weights", weights / weights.sum())
        object.__setattr__(self, "means", self.means.double())
        object.__setattr__(self, "covariances", self.covariances.double())
        eigenvalues = self.components.eigenvalues
        for j, (smallest, largest) in enumerate(eigenvalues[:, [0, -1]].tolist()):
            if smallest <= DEGENERATE * largest:
                raise InvalidArgumentError(
                    f"degenerate covariance of component {j}: its eigenvalues must be positive, "
                    f"they go from {smallest:g} to {largest:g}"
                )

    @classmethod
    def isotropic(cls, means: Float[Tensor, "k d"], deviation: float, name: str = "mixture") -> GaussianMixture:
        """Components of equal weight and covariance ``deviation``² I."""
        if means.ndim != 2 or means.numel() == 0 or not means.is_floating_point():
            raise InvalidArgumentError(
                f"means must be floating-point numbers [k, d], got {list(means.shape)} of {means.dtype}"
            )
        k, d = means.shape
        covariance = deviation**2 * torch.eye(d, dtype=torch.float64, device=means.device)
        return cls(means.new_full((k,), 1 / k), means, covariance.repeat(k, 1, 1), name)

    @cached_property
    def components(self) -> Components:
        """The components in their eigenbases."""
        return Components.of(self.weights, self.means, self.covariances)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, (d,)."""
        return tuple(self.means.shape[1:])

    @property
    def codec(self) -> Codec:
        """Vectors, seen as they are."""
        return VectorCodec()

    def root_mean_square(self) -> float:
        """√(E‖x_0‖² / d), σ_d."""
        second = self.means.square().sum(dim=1) + self.components.eigenvalues.sum(dim=1)
        return math.sqrt(float(self.weights @ second) / self.shape[0])

    def sample(self, noise: Noise) -> Float[Tensor, "b d"]:
        """Draw x_0 for each key, float32."""
        drawn = self.components.draw_data(noise.to(self.means.device))
        return drawn.float().to(noise.indices.device)

    def log_density(
        self, x_t: Float[Tensor, "b d"], t: Times = 0.0, schedule: Schedule = DEFAULT
    ) -> Float[Tensor, " b"]:
        """log p(x_t); differentiable in x_t."""
        a, variance = self._marginal(x_t, t, schedule)
        constant = 0.5 * self.shape[0] * math.log(2 * math.pi)
        return self._chunked(x_t, a, variance, lambda look, _: look.log_joint.logsumexp(dim=1) - constant)

    def score(self, x_t: Float[Tensor, "b d"], t: Times, schedule: Schedule = DEFAULT) -> Float[Tensor, "b d"]:
        """∇ log p(x_t)."""
        a, variance = self._marginal(x_t, t, schedule)
        return self._chunked(x_t, a, variance, lambda look, _: self.components.score(look))

    def component_posterior(
        self, x_t: Float[Tensor, "b d"], t: Times, schedule: Schedule = DEFAULT
    ) -> ComponentPosterior:
        """p(x_0 | x_t), exactly, in 8 b k d bytes."""
        a, variance = self._marginal(x_t, t, schedule)
        return ComponentPosterior(
            self._chunked(x_t, a, variance, lambda look, _: look.log_joint.log_softmax(dim=1)),
            self._chunked(x_t, a, variance, lambda look, _: self.components.component_means(look)),
            self._chunked(x_t, a, variance, lambda look, _: self.components.component_variances(look)),
        )

    def posterior_mean(self, x_t: Float[Tensor, "b d"], t: Times, schedule: Schedule = DEFAULT) -> Float[Tensor, "b d"]:
        """E[x_0 | x_t]."""
        a, variance = self._marginal(x_t, t, schedule)
        return self._chunked(x_t, a, variance, lambda look, _: self.components.mean(look))

    def posterior_covariance_trace(
        self, x_t: Float[Tensor, "b d"], t: Times, schedule: Schedule = DEFAULT
    ) -> Float[Tensor, " b"]:
        """tr Cov[x_0 | x_t], the total conditional variance."""
        a, variance = self._marginal(x_t, t, schedule)
        return self._chunked(x_t, a, variance, lambda look, _: self.components.covariance_trace(look))

    def draw_posterior(
        self, x_t: Float[Tensor, "b d"], t: Times, noise: Noise, schedule: Schedule = DEFAULT
    ) -> Float[Tensor, "b d"]:
        """Draw x_0 ~ p(x_0 | x_t), exactly."""
        a, variance = self._marginal(x_t, t, schedule)
        keys = noise.to(self.means.device)
        return self._chunked(x_t, a, variance, lambda look, rows: self.components.draw(look, keys[rows]))

    def denoise(self, x: Float[Tensor, "b d"], sigma: Times) -> Float[Tensor, "b d"]:
        """E[x_0 | x_0 + sigma n = x], sigma >= 0: the denoiser D(x, σ) of the identity of two looks."""
        s = _rows(x, sigma)
        if not bool((s >= 0).all()):
            raise InvalidArgumentError("sigma must not be negative")
        return self._chunked(x, torch.ones_like(s), s**2, lambda look, _: self.components.mean(look))

    def _marginal(self, x_t: Tensor, t: Times, schedule: Schedule) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t²) of each row, float64."""
        rows = _rows(x_t, t)
        if not bool(((rows >= 0) & (rows <= 1)).all()):
            raise InvalidArgumentError("t must lie in [0, 1]")
        return schedule.alpha(rows), schedule.variance(rows)

    def _chunked(self, x: Tensor, a: Tensor, variance: Tensor, function: Callable[[Look, slice], Tensor]) -> Tensor:
        """Apply ``function`` to looks at x_0 by chunks; the border of shapes, types and devices."""
        if x.ndim != 2 or x.shape[1:] != self.shape or len(x) == 0:
            raise InvalidArgumentError(f"{self.name} takes points [b, {self.shape[0]}], got {list(x.shape)}")
        return torch.cat([function(look, rows).to(x) for rows, look in self.looks(x, a, variance)])

    def looks(self, x: Tensor, a: Tensor, variance: Tensor) -> Iterator[tuple[slice, Look]]:
        """Looks x = a x_0 + s n, as many rows at once as fit in caches: which rows, and how the components see them."""
        size = max(1, CHUNK // self.means.numel())
        x, a, variance = (values.to(self.means.device, torch.float64) for values in (x, a, variance))
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            yield rows, self.components.look(x[rows], a[rows], variance[rows])


@final
@dataclass(frozen=True)
class MixturePosterior:
    """The exact posterior of a mixture: what an STMD network learns, in closed form."""

    mixture: GaussianMixture
    schedule: Schedule = DEFAULT

    def __call__(self, x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b d"]:
        """Draw x_0 ~ p(x_0 | x_t) for each sample."""
        return self.mixture.draw_posterior(x_t, t, noise, self.schedule)


def exact_velocity(
    mixture: GaussianMixture,
    schedule: Schedule,
    target: AbstractAffineTarget,
    z: Float[Tensor, "b d"],
    tau: Times,
    x_t: Float[Tensor, "b d"],
    t: Times,
) -> Float[Tensor, "b d"]:
    """The velocity of the conditional flow (20) for data that are the mixture, for τ and t in (0, 1].

    :class:`stmd_sdk.diffusion.glass.GlassVelocity` of the mixture's own denoiser, in float64.
    """
    tau_rows, t_rows = _rows(z, tau), _rows(x_t, t)
    if not bool(((tau_rows > 0) & (tau_rows <= 1) & (t_rows > 0) & (t_rows <= 1)).all()):
        raise InvalidArgumentError("tau and t must lie in (0, 1]")
    velocity = GlassVelocity(mixture.denoise, schedule, target)
    return velocity(z.double(), tau_rows, tau_rows, x_t.double(), t_rows).to(z)


def _rows(x: Tensor, times: Times) -> Tensor:
    """One time a row of x, float64."""
    rows = torch.as_tensor(times, dtype=torch.float64, device=x.device)
    if rows.ndim > 1 or (rows.ndim == 1 and len(rows) != len(x)):
        raise InvalidArgumentError(f"times must be a number or shaped [{len(x)}], got {list(rows.shape)}")
    return rows.expand(len(x))


def _check(weights: Tensor, means: Tensor, covariances: Tensor) -> None:
    """Raise unless the three are the finite parameters of a mixture (eigenvalues aside)."""
    k, d = means.shape if means.ndim == 2 else (0, 0)
    if k * d == 0 or weights.shape != (k,) or covariances.shape != (k, d, d):
        raise InvalidArgumentError(
            "need weights [k], means [k, d] and covariances [k, d, d], got "
            f"{list(weights.shape)}, {list(means.shape)} and {list(covariances.shape)}"
        )
    for what, values in (("weights", weights), ("means", means), ("covariances", covariances)):
        if not bool(values.isfinite().all()):
            raise InvalidArgumentError(f"{what} has values that are NaN or infinite")
    total = float(weights.double().sum())
    if not bool((weights > 0).all()) or abs(total - 1) > 1e-5:
        raise InvalidArgumentError(f"weights must be positive and sum to 1, they sum to {total:g}")
    if not torch.allclose(covariances, covariances.mT, rtol=1e-5, atol=1e-8):
        raise InvalidArgumentError("covariances must be symmetric")
