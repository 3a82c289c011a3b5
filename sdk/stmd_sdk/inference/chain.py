"""Metropolis: exact draws of p(x_0 | y) for any likelihood, from a posterior that can be drawn in one step.

Noise x_0 to x_t and draw x_0' ~ p(x_0 | x_t): that is reversible for the prior, for its joint law
p(x_0) q(x_t | x_0) p(x_0' | x_t) = p(x_t) p(x_0 | x_t) p(x_0' | x_t) is symmetric in x_0 and x_0'. Accepted with
probability min(1, L(x_0') / L(x_0)) the chain is reversible for p(x_0) L(x_0), whose density is never needed.

If x_t comes from another law q̃(x_t | x_0) instead, the same symmetry leaves the ratio of
W(x_0) = L(x_0) q̃(x_t | x_0) / q(x_t | x_0) as the exact acceptance: see :class:`RangeNoising`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule, expand
from ..errors import InferenceError, InvalidArgumentError
from ..operators import GaussianNoise, LinearOperator, Measurement, check_linear
from .guidance import LogLikelihood, values_of
from .resampling import log_mean, log_ratio, next_temperature, systematic

__all__ = ["LEVELS", "ChainStep", "FreeNoising", "Noising", "RangeNoising", "metropolis", "noising_for"]

LEVELS = (0.8, 0.5, 0.3, 0.2, 0.1)
PROBES = 64  # random samples that the mean gain of an operator is measured on
PATIENCE = 20  # steps without a single acceptance after which the chains are given up


@runtime_checkable  # for the checks of annotations in the tests
class Noising(Protocol):
    """How a chain noises x_0: the time it goes to, x_t ~ q̃(x_t | x_0), and log q̃ / q."""

    def times(self, beta: float, noise: Noise) -> Float[Tensor, " b"]:
        """One time a chain, independent of its state, for the likelihood to the power ``beta``."""
        ...

    def __call__(self, x_0: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise) -> Float[Tensor, "b *d"]:
        """Draw x_t."""
        ...

    def log_ratio(self, x_0: Float[Tensor, "b *d"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log q̃(x_t | x_0) - log q(x_t | x_0) at an x_t of this noising, but for terms that all x_0 share."""
        ...


@final
@dataclass(frozen=True)
class FreeNoising:
    """q itself, at one of several times drawn at random for each chain and step: large moves and small ones."""

    schedule: Schedule
    levels: tuple[float, ...] = LEVELS

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < level <= 1 for level in self.levels):
            raise InvalidArgumentError(f"levels must be times in (0, 1], at least one, got {self.levels}")

    def times(self, beta: float, noise: Noise) -> Float[Tensor, " b"]:
        """One of the levels."""
        chosen = (noise.uniform() * len(self.levels)).long()
        return torch.tensor(self.levels, device=chosen.device)[chosen]

    def __call__(self, x_0: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise) -> Float[Tensor, "b *d"]:
        """x_t = α_t x_0 + σ_t ε."""
        return self.schedule.marginal(x_0, t, noise.normal(*x_0.shape[1:]))

    def log_ratio(self, x_0: Float[Tensor, "b *d"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """0."""
        return torch.zeros_like(t)


@final
@dataclass(frozen=True)
class RangeNoising:
    """Conditional noising for y = A x_0 + N(0, sigma² I): what is measured is set, not noised.

    In the range of A⁺ x_t is α_t A⁺ y whatever x_0 is, in the null space it is α_t x_0 + σ_t ε. So x_0' starts
    out near the measurement, at any dimension. As q̃ does not depend on x_0 in the range,

        log q̃ / q = ‖A⁺ (y - A x_0)‖² α_t² / (2 σ_t²) + constant.

    ``sigma`` is the noise of A⁺ y. At the time where σ_t / α_t = sigma / √β that cancels the likelihood to the power β
    if A Aᵀ is a multiple of I on the range of A: the chain is then a Gibbs sampler and accepts every step.
    """

    schedule: Schedule
    operator: LinearOperator
    y: Float[Tensor, "1 *m"]
    sigma: float

    def times(self, beta: float, noise: Noise) -> Float[Tensor, " b"]:
        """The time at which x_t and y^β are equally noisy."""
        ratio = torch.tensor(self.sigma / beta**0.5, device=noise.indices.device)
        return self.schedule.time(ratio).expand(len(noise))

    def __call__(self, x_0: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise) -> Float[Tensor, "b *d"]:
        """Noise x_0, then put α_t A⁺ y in the range."""
        x_t = self.schedule.marginal(x_0, t, noise.normal(*x_0.shape[1:]))
        a_x = self.operator.A(x_t)
        return x_t + self.operator.A_dagger(expand(self.schedule.alpha(t), a_x) * self.y - a_x)

    def log_ratio(self, x_0: Float[Tensor, "b *d"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """‖A⁺ (y - A x_0)‖² α_t² / (2 σ_t²)."""
        away = self.operator.A_dagger(self.y - self.operator.A(x_0))
        precision = self.schedule.alpha(t).square() / self.schedule.variance(t)
        return 0.5 * precision * away.square().flatten(1).sum(dim=1)


def noising_for(
    log_likelihood: LogLikelihood,
    levels: Sequence[float] | None,
    schedule: Schedule,
    shape: tuple[int, ...],
    device: torch.device,
) -> Noising:
    """Free noising at ``levels``; without any, conditional noising where the likelihood is linear and Gaussian."""
    if levels is not None:
        return FreeNoising(schedule, tuple(levels))
    if isinstance(log_likelihood, Measurement) and isinstance(log_likelihood.noise, GaussianNoise):
        operator, sigma = log_likelihood.operator, log_likelihood.noise.sigma
        if isinstance(operator, LinearOperator):
            check_linear(operator, shape, device)
            # A⁺ y has the noise sigma / s along a singular direction of gain s; s² is taken as its mean over the range.
            x = Noise.of(0, PROBES, device=device).normal(*shape)
            clean = operator.A(x)
            gain = float((clean.square().sum() / operator.A_dagger(clean).square().sum()).sqrt())
            return RangeNoising(schedule, operator, log_likelihood.y.to(device), sigma / gain)
    return FreeNoising(schedule)


@final
@dataclass(frozen=True, eq=False)
class ChainStep:
    """All chains after a step: their states, log L, the times they went to, and what was accepted.

    ``beta`` is the power of the likelihood that the step was reversible for, ``log_evidence`` the estimate of
    log E[L^β] over the prior; it means something for tempered chains alone. ``roots`` tells which start each chain
    comes from: tempering drops some and copies others.
    """

    x_0: Float[Tensor, "b *d"]
    log_likelihood: Float[Tensor, " b"]
    t: Float[Tensor, " b"]
    accepted: Bool[Tensor, " b"]
    roots: Int[Tensor, " b"]
    beta: float
    log_evidence: float


def metropolis(
    posterior: Posterior,
    log_likelihood: LogLikelihood,
    x_0: Float[Tensor, "b *d"],
    noising: Noising,
    noise: Noise,
    *,
    tempering: float | None = None,
) -> Iterator[ChainStep]:
    """Run one chain from each row of ``x_0``, for ever; one draw of ``posterior`` a step and chain.

    With ``tempering`` the rows must be draws of the prior. The likelihood's power β then rises from 0 to 1, each
    time as far as the weights L^Δβ keep that share of effective samples; the chains are resampled by them and
    then moved at the new β (a sequential Monte Carlo sampler, Del Moral et al., 2006). Without it β is 1.
    """
    values = values_of(log_likelihood, x_0)
    roots = torch.arange(len(x_0), device=x_0.device)
    beta, log_evidence, refused = (1.0 if tempering is None else 0.0), 0.0, 0
    for k in count():
        step = noise.fold(k)
        if tempering is not None and beta < 1:
            rows, beta, gained = _tempered(values, beta, tempering, step.fold(0))
            x_0, values, roots, log_evidence = x_0[rows], values[rows], roots[rows], log_evidence + gained
        t = noising.times(beta, step.fold(1))
        proposed = posterior(noising(x_0, t, step.fold(2)), t, step.fold(3))
        found = values_of(log_likelihood, proposed)
        ratio = log_ratio(beta, found, values) + noising.log_ratio(proposed, t) - noising.log_ratio(x_0, t)
        accepted = step.fold(4).uniform().log() < ratio
        x_0 = torch.where(expand(accepted, x_0), proposed, x_0)
        values = torch.where(accepted, found, values)
        refused = 0 if bool(accepted.any()) else refused + 1
        if refused == PATIENCE:
            least = float(t.min())
            raise InferenceError(
                f"none of {len(x_0)} chains accepted in {PATIENCE} steps at t from {least:.3g} to "
                f"{float(t.max()):.3g} (log L is {float(values.max()):.4g} at best, proposals reach "
                f"{float(found.max()):.4g}): noise less, as with levels=({least / 2:.2g}, {least / 4:.2g}), "
                "start from better samples, or leave tempering on"
            )
        yield ChainStep(x_0, values, t, accepted, roots, beta, log_evidence)


def _tempered(
    values: Float[Tensor, " b"], beta: float, share: float, noise: Noise
) -> tuple[Int[Tensor, " b"], float, float]:
    """The chains that go on, the power that ``share`` of them allow from ``beta`` on, and log E[L^Δβ]."""
    raised = next_temperature(torch.zeros_like(values), values, beta, share)
    weights = (raised - beta) * values
    return systematic(weights, noise), raised, log_mean(weights)
