"""Guides: functions from a posterior to a posterior, which draw x_0 given x_t and a measurement.

A sampler holds a tuple of them; the first is applied to the model's own posterior, the next to the result.
All work on x_0 as the network sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..codecs.codec import Codec
from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule, expand
from ..diffusion.target import ResidualTarget
from ..errors import InferenceError, InvalidArgumentError
from ..operators import LinearOperator, check_linear, check_reachable, check_scale
from ..operators.scaled import through_codec

__all__ = [
    "Guide",
    "LikelihoodGuide",
    "LikelihoodPosterior",
    "LogLikelihood",
    "RangeNullGuide",
    "RangeNullPosterior",
    "range_null_guide",
    "values_of",
]

Guide = Callable[[Posterior], Posterior]
LogLikelihood = Callable[[Any], Any]
"""A function of samples [b, *d] to log p(y | x) or a reward, one finite number a sample [b]; -inf forbids."""

SOLVER_STEPS = 64


def values_of(
    log_likelihood: LogLikelihood, x: Float[Tensor, "b *d"], what: str = "log-likelihood or reward"
) -> Float[Tensor, " b"]:
    """One number a sample, checked: of shape [b], never NaN and never +inf; ``what`` names it in errors.

    The function gets a copy, so that one which works in place changes no samples.
    """
    values = log_likelihood(x.clone())
    if not isinstance(values, Tensor) or values.shape != (len(x),):
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidArgumentError(f"the {what} must be one number a sample, a tensor [{len(x)}], got {got}")
    if values.dtype == torch.bool or values.is_complex():
        raise InvalidArgumentError(f"the {what} must be real numbers, got {values.dtype}")
    if bool((values.isnan() | (values == torch.inf)).any()):
        bad = int((values.isnan() | (values == torch.inf)).sum())
        raise InferenceError(f"the {what} is NaN or +inf for {bad} of {len(x)} samples")
    return values.float()


@final
@dataclass(frozen=True)
class RangeNullPosterior:
    """x_0 given x_t and y = A x_0 + N(0, sigma² I), for linear A.

    Without noise x_0 ← A⁺ y + (I - A⁺ A) x_0 (the paper's appendix C; DDNM, Wang et al., 2022), which meets
    the measurement exactly. With noise the correction is scaled down as DDNM+ does, by Matheron's rule:

        x_0 ← x_0 + r² Aᵀ (r² A Aᵀ + sigma² I)⁻¹ (y + sigma n - A x_0),   n ~ N(0, I),

    where r = c_out(t) is the posterior's deviation if the data were N(0, σ_d² I); for such data, and a linear
    A of any spectrum, it is the exact p(x_0 | x_t, y), and so is the chain of steps. The system is solved by
    conjugate gradients.
    """

    posterior: Posterior
    operator: LinearOperator
    y: Float[Tensor, "1 *m"]
    sigma: float
    gaussian: ResidualTarget

    def __call__(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        """Draw x_0 and correct it."""
        if self.sigma == 0:
            x_0 = self.posterior(x_t, t, noise)
            return x_0 + self.operator.A_dagger(self.y - self.operator.A(x_0))
        x_0 = self.posterior(x_t, t, noise.fold(0))
        residual = self.y - self.operator.A(x_0)
        _, r = self.gaussian.coefficients(t)
        residual = residual + self.sigma * noise.fold(1).normal(*residual.shape[1:])
        w = self._solve(expand(r**2, residual), residual)
        return x_0 + expand(r**2, x_0) * self.operator.A_adjoint(w)

    def _solve(self, r2: Tensor, b: Tensor) -> Tensor:
        """w of (r² A Aᵀ + sigma² I) w = b, one system a row, by conjugate gradients."""

        def product(u: Tensor, v: Tensor) -> Tensor:
            return expand((u * v).flatten(1).sum(dim=1), u)

        w, residual, direction = torch.zeros_like(b), b, b
        square = product(b, b)
        least = 1e-10 * square
        for _ in range(SOLVER_STEPS):
            if bool((square <= least).all()):
                break
            image = r2 * self.operator.A(self.operator.A_adjoint(direction)) + self.sigma**2 * direction
            step = torch.where(square > least, square / product(direction, image).clamp(min=1e-30), 0)
            w, residual = w + step * direction, residual - step * image
            square, before = product(residual, residual), square
            direction = residual + square / before.clamp(min=1e-30) * direction
        return w


@final
@dataclass(frozen=True)
class RangeNullGuide:
    """Range-null space guidance towards one linear measurement; ``sigma`` 0 meets it exactly."""

    operator: LinearOperator
    y: Float[Tensor, "1 *m"]
    schedule: Schedule
    sigma_data: float
    sigma: float = 0.0

    def __call__(self, posterior: Posterior, /) -> Posterior:
        """The posterior given the measurement."""
        gaussian = ResidualTarget(self.schedule, self.sigma_data)
        return RangeNullPosterior(posterior, self.operator, self.y, self.sigma, gaussian)


def range_null_guide(
    operator: LinearOperator,
    y: Float[Tensor, "1 *m"],
    sigma: float,
    schedule: Schedule,
    codec: Codec,
    shape: tuple[int, ...],
    sigma_data: float,
) -> RangeNullGuide:
    """The guide towards a measurement of samples, translated to what the network sees, its scale checked."""
    if not 0 <= sigma < math.inf:
        raise InvalidArgumentError(f"sigma must not be negative or infinite, got {sigma}")
    check_linear(operator, shape, y.device)
    operator, y = through_codec(operator, y, codec)
    if sigma == 0:
        check_reachable(operator, y, codec.bound)
    elif codec.bound is not None:
        check_scale(operator, y, shape, codec.bound, sigma)
    return RangeNullGuide(operator, y, schedule, sigma_data, sigma)


@final
@dataclass(frozen=True)
class LikelihoodPosterior:
    """x_0 ← x_0 + scale (σ_t² / α_t) ∇_{x_t} log (1/K) Σ_k L(x_0^k), x_0^k ~ p(x_0 | x_t), by Tweedie's formula.

    K = 1 is DPS (Chung et al., 2022) through a draw instead of the mean; K > 1 estimates
    log p(y | x_t) = log E[L(x_0) | x_t] by posterior samples (Song et al., 2023). It is an approximation for
    comparison; :meth:`Sampler.chain` is exact. No step is longer than the posterior's own deviation c_out(t),
    or sharp likelihoods would explode. Costs K evaluations and their gradients.
    """

    posterior: Posterior
    log_likelihood: LogLikelihood
    scale: float
    draws: int
    gaussian: ResidualTarget

    def __call__(self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        """Draw x_0 and move it up the likelihood."""
        with torch.inference_mode(False), torch.enable_grad():
            x, t = x_t.clone().requires_grad_(), t.clone()
            rows = x.repeat(self.draws, *[1] * (x.ndim - 1))
            x_0 = self.posterior(rows, t.repeat(self.draws), noise.draws(self.draws))
            values = values_of(self.log_likelihood, x_0).reshape(self.draws, len(x))
            if not values.requires_grad:
                raise InvalidArgumentError("the log-likelihood has no gradient; use a chain, which needs none")
            (gradient,) = torch.autograd.grad(values.logsumexp(dim=0).sum(), x)
        schedule = self.gaussian.schedule
        step = expand(self.scale * schedule.variance(t) / schedule.alpha(t), x_t) * gradient
        _, deviation = self.gaussian.coefficients(t)
        length = step.square().flatten(1).mean(dim=1).sqrt()
        return x_0[: len(x_t)].detach() + expand((deviation / length.clamp(min=1e-12)).clamp(max=1), step) * step


@final
@dataclass(frozen=True)
class LikelihoodGuide:
    """Guidance by the gradient of any log-likelihood through ``draws`` one-step draws."""

    log_likelihood: LogLikelihood
    schedule: Schedule
    sigma_data: float
    scale: float = 1.0
    draws: int = 1

    def __call__(self, posterior: Posterior, /) -> Posterior:
        """The guided posterior."""
        gaussian = ResidualTarget(self.schedule, self.sigma_data)
        return LikelihoodPosterior(posterior, self.log_likelihood, self.scale, self.draws, gaussian)
