"""Split Gibbs sampling: exact draws of p(x | y) in tens of one-step draws.

x and a noisy copy z of it, of deviation ρ, are drawn in turn: x ~ p(x | z) is one draw of p(x_0 | x_t = α_t z) at the
time where σ_t / α_t = ρ, and z ~ p(z | x, y) needs no network (:mod:`.coupling`). ρ falls from ten times the data's
scale, where the pair mixes at once, to where x has the posterior:

- *annealed*: at fixed levels, every draw by itself. Moves at a small ρ are short, so where the posterior has several
  modes their weights are those of the levels where draws last moved between them;
- *resampled*: sequential Monte Carlo over ρ (Del Moral et al., 2006). Weighed by the ratio of the targets at ρ' and ρ,
  with ρ' as small as leaves a share of the particles effective, resampled, moved. Exact as the particles grow, and
  the mean weights multiply to p(y).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule, expand
from ..errors import InferenceError
from .coupling import Coupling
from .resampling import effective_share, log_mean, systematic

__all__ = ["LEVELS", "WIDE", "GibbsStep", "annealed_gibbs", "coupling_levels", "resampled_gibbs"]

LEVELS = 40
WIDE = 10.0  # the first ρ over the data's deviation
POWER = 7  # levels are even in ρ^(1/7)
HALVINGS = 40


@final
@dataclass(frozen=True, eq=False)
class GibbsStep:
    """All draws after a move at the coupling ``rho``.

    Of resampled ones ``ess`` is the effective share of their weights before they were resampled, ``roots`` which start
    each comes from, ``log_evidence`` the estimate of the log mean likelihood at ``rho``.
    """

    rho: float
    x_0: Float[Tensor, "b *d"]
    z: Float[Tensor, "b *d"]
    roots: Int[Tensor, " b"]
    ess: float = 1.0
    log_evidence: float = 0.0


def coupling_levels(first: float, last: float, count: int) -> list[float]:
    """``count`` couplings from ``first`` down to ``last``, even in ρ^(1/7); ``last`` alone where it is larger."""
    count, last = check_integer("steps", count, 1), min(first, last)
    a, b = first ** (1 / POWER), last ** (1 / POWER)
    falling = [(a + (b - a) * k / max(count - 1, 1)) ** POWER for k in range(count)]
    return [*falling[:-1], last]


def annealed_gibbs(
    posterior: Posterior, schedule: Schedule, coupling: Coupling, levels: Sequence[float], x_0: Tensor, noise: Noise
) -> Iterator[GibbsStep]:
    """One move at each of ``levels`` from ``x_0``, of which little is left after the first; draws are independent."""
    step = GibbsStep(levels[0], x_0, _first_copy(x_0, levels[0], noise), torch.arange(len(x_0), device=x_0.device))
    for k, rho in enumerate(levels, start=1):
        x_0, z = _move(posterior, schedule, coupling, step, rho, noise.fold(k))
        step = GibbsStep(rho, x_0, z, step.roots)
        yield step


def resampled_gibbs(
    posterior: Posterior,
    schedule: Schedule,
    coupling: Coupling,
    first: float,
    x_0: Float[Tensor, "b *d"],
    noise: Noise,
    *,
    share: float = 0.5,
) -> Iterator[GibbsStep]:
    """From draws ``x_0`` of the prior to ``coupling.last``, then moves there for ever; ``first`` is the largest ρ."""
    roots = torch.arange(len(x_0), device=x_0.device)
    step, k, weighed = GibbsStep(first, x_0, _first_copy(x_0, first, noise), roots), 0, False
    while True:
        k += 1
        if not weighed or step.rho > coupling.last:
            base = (
                coupling.log_weight(step.x_0, step.z, step.rho) if weighed else torch.zeros_like(x_0.flatten(1)[:, 0])
            )
            rho, log_weights = _next_level(coupling, step, base, share)
            rows = systematic(log_weights, noise.fold(k).fold(3))
            x, z = step.x_0[rows], _copy(step, rho)[rows]
            step = GibbsStep(
                rho,
                x,
                z,
                step.roots[rows],
                effective_share(log_weights),
                step.log_evidence + log_mean(log_weights),
            )
            weighed = True
        x, z = _move(posterior, schedule, coupling, step, step.rho, noise.fold(k))
        step = GibbsStep(step.rho, x, z, step.roots, step.ess, step.log_evidence)
        yield step


def _next_level(coupling: Coupling, step: GibbsStep, base: Tensor, share: float) -> tuple[float, Tensor]:
    """The least ρ' >= last whose weights, the targets' ratio, keep ``share`` effective: bisection on log ρ."""

    def weights(rho: float) -> Tensor:
        found = coupling.log_weight(step.x_0, _copy(step, rho), rho)
        return torch.where(base == -torch.inf, -torch.inf, found - base)

    low, high = min(coupling.last, step.rho), step.rho
    found = weights(low)
    if not bool(found.isfinite().any()):
        raise InferenceError(
            f"the log-likelihood is -inf for all {len(base)} samples of the prior: nothing can be weighed. "
            "Take more draws, or a likelihood that is positive near the data"
        )
    if effective_share(found) >= share:
        return low, found
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if effective_share(weights(middle)) >= share else (middle, high)
    return high, weights(high)


def _first_copy(x_0: Tensor, rho: float, noise: Noise) -> Tensor:
    return x_0 + rho * noise.fold(0).fold(7).normal(*x_0.shape[1:])


def _copy(step: GibbsStep, rho: float) -> Tensor:
    """The copy at another coupling: the same noise, ρ' times it."""
    return step.x_0 + (rho / step.rho) * (step.z - step.x_0)


def _move(
    posterior: Posterior, schedule: Schedule, coupling: Coupling, step: GibbsStep, rho: float, noise: Noise
) -> tuple[Tensor, Tensor]:
    """z ~ p(z | x, y), then x ~ p(x_0 | x_t = α_t z)."""
    z = coupling.move(step.x_0, _copy(step, rho), rho, noise.fold(1))
    t = schedule.time(torch.tensor(rho, device=z.device)).expand(len(z))
    return posterior(expand(schedule.alpha(t), z) * z, t, noise.fold(2)), z
