"""Steering: sequential Monte Carlo along the reverse SDE, with exact one-step draws as look-ahead.

The target is p(x_0) exp(reward(x_0)). A particle is a pair (x_t, x_0): a noisy state and what it may become. At power β
of the reward its law is p(x_t, x_0) exp(β reward(x_0)), twisted at every t by what lies ahead, and three moves keep it:

- raise β to β': weigh by exp((β' - β) reward(x_0)), and resample where too few particles are effective;
- go on: x_s ~ bridge(x_0, x_t) leaves p(x_s, x_0) exp(β reward(x_0)), for the bridge is q(x_s | x_0, x_t);
- look ahead again: x_0' ~ p(x_0 | x_s) replaces x_0 with probability min(1, exp(β (reward' - reward))).

A Feynman-Kac model with a reversible move (Del Moral et al., 2006; Wu et al., 2023 twist the steps by a point
estimate instead). Weights depend on one x_0 alone, so they stay even where two draws of p(x_0 | x_t) differ much in
reward; at s = 0 the pair is x_0 twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule, expand
from ..errors import InvalidArgumentError
from .guidance import LogLikelihood, values_of
from .resampling import effective_share, log_mean, log_ratio, next_temperature, systematic

__all__ = ["SteeringStep", "best_of", "steered_sde"]


@final
@dataclass(frozen=True, eq=False)
class SteeringStep:
    """All particles on arriving at time ``t``: state, look-ahead, reward, weight, and the start they come from.

    ``ess`` is their effective share before they were resampled, if they were; ``accepted`` the share of look-aheads
    taken. ``log_evidence`` estimates log E[exp(β reward)] over the prior; where the β were fixed beforehand its
    exponential has no bias.
    """

    t: float
    x_t: Float[Tensor, "b *d"]
    x_0: Float[Tensor, "b *d"]
    reward: Float[Tensor, " b"]
    log_weights: Float[Tensor, " b"]
    roots: Int[Tensor, " b"]
    beta: float
    ess: float
    accepted: float
    log_evidence: float


def steered_sde(
    posterior: Posterior,
    schedule: Schedule,
    times: Sequence[float],
    shape: tuple[int, ...],
    reward: LogLikelihood,
    noise: Noise,
    *,
    resample_below: float = 0.5,
    tempering: float | Sequence[float] = 0.8,
) -> Iterator[SteeringStep]:
    """Draw one weighted particle a key; one evaluation of ``posterior`` a step and particle, N in all.

    ``tempering`` gives the powers β_k at which the N times are left: N rising numbers, 1 at last; or the share of
    effective particles that raising β may leave, which the last step alone may fall below.
    """
    x_t, t_rows = noise.fold(0).normal(*shape), noise.indices.new_ones(len(noise), dtype=torch.float32)
    x_0 = posterior(x_t, t_rows, noise.fold(1).fold(0))
    values, log_weights = values_of(reward, x_0), x_t.new_zeros(len(x_t))
    roots = torch.arange(len(x_t), device=x_t.device)
    beta, base, accepted = 0.0, 0.0, 1.0
    for k, (t, s) in enumerate(pairwise(times), start=1):
        raised = _power(tempering, k, s, log_weights, values, beta)
        if raised > beta:  # 0 times -inf is nan
            log_weights = log_weights + (raised - beta) * values
        beta, ess, log_evidence = raised, effective_share(log_weights), base + log_mean(log_weights)
        if ess < resample_below and s > 0:
            rows = systematic(log_weights, noise.fold(2 * k).fold(1))
            x_t, x_0, values, roots = x_t[rows], x_0[rows], values[rows], roots[rows]
            log_weights, base = torch.zeros_like(log_weights), log_evidence
        epsilon = noise.fold(2 * k).normal(*shape) if s > 0 else torch.zeros_like(x_t)
        s_rows = torch.full_like(t_rows, s)
        x_t = schedule.bridge(x_0, x_t, torch.full_like(t_rows, t), s_rows, epsilon)
        if s > 0:
            look = posterior(x_t, s_rows, noise.fold(2 * k + 1).fold(0))
            found = values_of(reward, look)
            better = noise.fold(2 * k + 1).fold(1).uniform().log() < log_ratio(beta, found, values)
            x_0, values = torch.where(expand(better, x_0), look, x_0), torch.where(better, found, values)
            accepted = float(better.float().mean())
        yield SteeringStep(s, x_t, x_0, values, log_weights, roots, beta, ess, accepted, log_evidence)


def _power(
    tempering: float | Sequence[float], k: int, s: float, log_weights: Tensor, values: Tensor, beta: float
) -> float:
    """β_k: that of a fixed list, or the highest that keeps the share."""
    if not isinstance(tempering, int | float):
        return float(tempering[k - 1])
    return 1.0 if s == 0 else next_temperature(log_weights, values, beta, tempering)


def best_of(candidates: Float[Tensor, "nm *d"], reward: LogLikelihood, count: int) -> Float[Tensor, "n *d"]:
    """The best of every ``count`` candidates by reward: no posterior, but what steering must beat at its cost."""
    count = check_integer("count", count, 1)
    if len(candidates) % count:
        raise InvalidArgumentError(f"{len(candidates)} candidates do not make groups of {count}")
    values = values_of(reward, candidates).reshape(-1, count)
    groups = candidates.reshape(-1, count, *candidates.shape[1:])
    return groups[torch.arange(len(groups), device=candidates.device), values.argmax(dim=1)]
