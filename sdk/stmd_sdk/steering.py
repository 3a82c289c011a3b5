"""Steering: sequential Monte Carlo along the reverse SDE, with exact one-step draws as look-ahead.

The target is p(x_0) exp(reward(x_0)). A particle is x_t with a draw x_0 ~ p(x_0 | x_t); that draw both tells what the
particle is worth and leads it through the bridge to x_s, so looking ahead costs nothing. Step k weighs particles
by G_k = exp(β_k reward(x_0^k) - β_{k-1} reward(x_0^{k-1})), a Feynman-Kac model whose weights telescope to
exp(reward) of the last x_0 (twisted SMC: Wu et al., 2023, with a draw where they take the posterior's mean).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_integer
from .errors import InvalidArgumentError
from .guidance import LogLikelihood, evaluate
from .noise import Noise
from .posterior import Posterior
from .schedule import VPSchedule
from .weights import effective_share, log_mean, next_temperature, systematic

__all__ = ["SteeringStep", "best_of", "steered_sde"]


@final
@dataclass(frozen=True, eq=False)
class SteeringStep:
    """All particles after a step to time ``s``: where they are, the x_0 that led there, and their weights.

    ``ess`` is the effective share of the particles before they were resampled, if they were;
    ``log_evidence`` estimates log E[exp(β reward)] over the prior, its exponential without bias where β is fixed.
    """

    s: float
    x_s: Float[Tensor, "b *d"]
    x_0: Float[Tensor, "b *d"]
    log_weights: Float[Tensor, " b"]
    beta: float
    ess: float
    resampled: bool
    log_evidence: float


def steered_sde(
    posterior: Posterior,
    schedule: VPSchedule,
    times: Sequence[float],
    shape: tuple[int, ...],
    reward: LogLikelihood,
    noise: Noise,
    *,
    resample_below: float = 0.5,
    tempering: float | Sequence[float] = 0.5,
) -> Iterator[SteeringStep]:
    """Draw one weighted particle a key; one evaluation of ``posterior`` a step and particle.

    Particles are resampled where their effective share falls below ``resample_below``, never after the last
    step. ``tempering`` gives the powers β_k: numbers, one a step and 1 at last; or a share of effective particles
    that raising β may not fall below, except in the last step.
    """
    x_t = noise.fold(0).normal(*shape)
    log_weights = x_t.new_zeros(len(x_t))
    before, beta, base = log_weights, 0.0, 0.0
    for k, (t, s) in enumerate(pairwise(times), start=1):
        t_rows, s_rows = x_t.new_full((len(x_t),), t), x_t.new_full((len(x_t),), s)
        x_0 = posterior(x_t, t_rows, noise.fold(2 * k - 1).fold(0))
        values = evaluate(reward, x_0)
        if s > 0:
            values = _passable(values)
        beta = _power(tempering, k, s, log_weights - before, values, beta)
        now = beta * values
        log_weights = log_weights - before + now
        ess, evidence = effective_share(log_weights), base + log_mean(log_weights)
        resampled = ess < resample_below and s > 0
        if resampled:
            rows = systematic(log_weights, noise.fold(2 * k - 1).fold(1))
            x_t, x_0, now = x_t[rows], x_0[rows], now[rows]
            log_weights, base = torch.zeros_like(log_weights), evidence
        before = now
        epsilon = noise.fold(2 * k).normal(*shape) if s > 0 else torch.zeros_like(x_t)
        x_t = schedule.bridge(x_0, x_t, t_rows, s_rows, epsilon)
        yield SteeringStep(s, x_t, x_0, log_weights, beta, ess, resampled, evidence)


def _power(tempering: float | Sequence[float], k: int, s: float, weights: Tensor, values: Tensor, beta: float) -> float:
    """β_k: that of a fixed list, or the highest that keeps the share."""
    if not isinstance(tempering, int | float):
        return float(tempering[k - 1])
    if s == 0:
        return 1.0
    return next_temperature(weights + beta * values, values, beta, tempering)


def _passable(values: Tensor) -> Tensor:
    """-inf as the lowest finite value: a look ahead must not kill a path whose last x_0 may be possible."""
    finite = values.isfinite()
    lowest = values[finite].min() if bool(finite.any()) else values.new_zeros(())
    return torch.where(finite, values, lowest)


def best_of(candidates: Float[Tensor, "nm *d"], reward: LogLikelihood, count: int) -> Float[Tensor, "n *d"]:
    """The best of every ``count`` candidates by reward: no posterior, but what steering must beat at its cost."""
    count = check_integer("count", count, 1)
    if len(candidates) % count:
        raise InvalidArgumentError(f"{len(candidates)} candidates do not make groups of {count}")
    values = evaluate(reward, candidates).reshape(-1, count)
    groups = candidates.reshape(-1, count, *candidates.shape[1:])
    return groups[torch.arange(len(groups), device=candidates.device), values.argmax(dim=1)]
