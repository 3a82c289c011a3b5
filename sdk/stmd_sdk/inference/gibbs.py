"""Split Gibbs sampling: exact draws of p(x | y) in tens of one-step draws.

x and a noisy copy z of it, of deviation ρ, are drawn in turn: x ~ p(x | z) is one draw of p(x_0 | x_t = α_t z) at the
time where σ_t / α_t = ρ, and z ~ p(z | x, y) needs no network (:mod:`.coupling`). ρ falls from the data's scale, where
the pair mixes at once, to where x has the posterior:

- *annealed*: at fixed levels, every draw by itself. Moves at a small ρ are short, and what they cannot follow stays
  behind: where the posterior has several modes their weights are those of the levels where draws last moved between
  them. Of Gaussians the law at the end is algebra (``benchmarks/lag.py``): levels from half to twice the data's
  deviation follow best; digits, which have modes, are restored best from three times it;
- *resampled*: sequential Monte Carlo over ρ (Del Moral et al., 2006). Weighed by the ratio of the targets at ρ' and ρ,
  with ρ' as small as leaves a share of the particles effective, resampled, moved. Exact as the particles grow, and
  the mean weights multiply to p(y).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Key, Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule, expand
from ..errors import InferenceError
from .coupling import Copying, Coupling, rescaled
from .resampling import effective_share, log_mean, systematic

__all__ = [
    "FREE",
    "LEVELS",
    "WIDE",
    "GibbsStep",
    "annealed_gibbs",
    "annealed_paths",
    "coupling_levels",
    "resampled_gibbs",
]

LEVELS = 40
WIDE = 3.0  # the first ρ over the data's deviation, of annealed draws
FREE = 10.0  # the same of resampled ones, where the likelihood says nothing yet
SHARE = 0.8  # of the particles, which a level leaves effective
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


def coupling_levels(first: float, last: float, steps: int) -> list[float]:
    """``steps`` couplings from ``first`` down to ``last``, each the same share of the one before.

    ``last`` alone where it is larger.
    """
    steps, last = check_integer("steps", steps, 1), min(first, last)
    return [first * (last / first) ** (k / max(steps - 1, 1)) for k in range(steps - 1)] + [last]


def annealed_gibbs(
    posterior: Callable[[Tensor, Tensor, Key], Tensor],
    schedule: Schedule,
    coupling: Copying[Key],
    levels: Sequence[float],
    x_0: Tensor,
    noise: Key,
) -> Iterator[GibbsStep]:
    """One move at each of ``levels`` from ``x_0``, of which little is left after the first; draws are independent."""
    z = coupling.start(x_0, levels[0], noise.fold(0))
    # Not len(), which would freeze the batch of an exported graph.
    step = GibbsStep(levels[0], x_0, z, torch.arange(x_0.shape[0], device=x_0.device))
    for k, rho in enumerate(levels, start=1):
        step = _moved(posterior, schedule, coupling, step, rho, noise.fold(k))
        yield step


def annealed_paths(levels: int) -> tuple[tuple[int, ...], ...]:
    """Where the normals of :func:`annealed_gibbs` are, by a linear coupling and one-step draws: 2 + 4 ``levels`` keys.

    Of the first copy e and n; of each move k that of the earlier copy's e and n, n' of the new one, and the draw's.
    """
    moves = (path for k in range(1, levels + 1) for path in ((k, 1, 0), (k, 1, 1), (k, 1, 2), (k, 2)))
    return (0, 0), (0, 1), *moves


def resampled_gibbs(
    posterior: Posterior,
    schedule: Schedule,
    coupling: Coupling,
    first: float,
    x_0: Float[Tensor, "b *d"],
    noise: Noise,
    *,
    share: float = SHARE,
) -> Iterator[GibbsStep]:
    """From draws ``x_0`` of the prior to ``coupling.last``, then moves there for ever; ``first`` is the largest ρ."""
    roots = torch.arange(len(x_0), device=x_0.device)
    step = GibbsStep(first, x_0, coupling.start(x_0, first, noise.fold(0)), roots)
    base, rho = torch.zeros_like(x_0.flatten(1)[:, 0]), math.inf
    for k in count(1):
        if rho > coupling.last:
            rho, log_weights = _next_level(coupling, step, base, share)
            rows, evidence = systematic(log_weights, noise.fold(k).fold(3)), step.log_evidence + log_mean(log_weights)
            ess = effective_share(log_weights)
            step = GibbsStep(step.rho, step.x_0[rows], step.z[rows], step.roots[rows], ess, evidence)
        step = _moved(posterior, schedule, coupling, step, rho, noise.fold(k))
        base = coupling.log_weight(step.x_0, step.z, rho)
        yield step


def _next_level(coupling: Coupling, step: GibbsStep, base: Tensor, share: float) -> tuple[float, Tensor]:
    """The least ρ' >= last whose weights, the targets' ratio, keep ``share`` effective: bisection on log ρ."""

    def weights(rho: float) -> Tensor:
        found = coupling.log_weight(step.x_0, rescaled(step.x_0, step.z, step.rho, rho), rho)
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


def _moved(
    posterior: Callable[[Tensor, Tensor, Key], Tensor],
    schedule: Schedule,
    coupling: Copying[Key],
    step: GibbsStep,
    rho: float,
    noise: Key,
) -> GibbsStep:
    """z ~ p(z | x, y), then x ~ p(x_0 | x_t = α_t z)."""
    z = coupling.move(step.x_0, step.z, step.rho, rho, noise.fold(1))
    t = schedule.time(torch.tensor(rho, device=z.device)).expand(z.shape[0])
    x_0 = posterior(expand(schedule.alpha(t), z) * z, t, noise.fold(2))
    return replace(step, rho=rho, x_0=x_0, z=z)
