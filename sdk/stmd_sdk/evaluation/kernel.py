"""The kernel certificate: a posterior's draws against the exact p(x_0 | x_t) of a Gaussian mixture.

At each t: pairs x_0 ~ data, x_t ~ q(x_t | x_0), K draws of the posterior for each x_t, and six measures.

- *variance ratio*: E s² / E tr Cov[x_0 | x_t], with s² the unbiased variance of the K draws of one x_t, which
  needs no mean, and the oracle's exact trace. 1 for exact draws.
- *mode mass*: the largest error of the mean posterior mass over modes. A draw counts for mode j with p(j |
  x_0 = draw), whose mean over exact draws is p(j | x_t). Modes are told apart twice, by name and by their
  rank in p(j | x_t): draws that ignore x_t can hit every name's mean, but not every rank's.
- *energy distance*: E[2 ‖y - o‖ - ‖y - y'‖ - ‖o - o'‖] of draws y and oracle draws o of the same x_t, over
  E‖o - o'‖; unbiased, so the oracle against itself shows 0 ± its error: the *floor*.
- *TARP*: the largest deviation of the coverage of random balls (:mod:`.calibration`).
- *ranks*: the largest deviation of the rank of the truth among the draws, along eight random directions.
- *two steps*: t → u → 0 against t → 0 with u = t/2, the posterior's own draws, as an energy distance on the
  scale of the oracle's. For exact draws the two agree (the semigroup law); s = 0 is where a difference shows
  most.

Their p-values are for the hypothesis of exact draws: normal for means, Kolmogorov's on a grid for TARP,
Pearson's for ranks; several modes or directions make one p-value by Cauchy combination.

Measured on mixture2d at an overall level of 0.05: false alarms in 10 and 12 of 200 runs at 4096 pairs, in 13 of 200
at 1000. A spread of 0.95 is found by the variance ratio at every t in 50 of 50 runs of 4000 pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule
from ..errors import InvalidArgumentError
from ..mixtures.law import GaussianMixture
from .certificate import PosteriorPairs, certified
from .controls import control_posteriors
from .coverage import calibration
from .finding import Certificate, Finding, z_p_value
from .joint import JointDraws, check_posterior, check_times, draw
from .oracle import ORACLE_DRAWS, OraclePairs, oracle_pairs, responsibilities
from .statistics import Estimate, combined_p_value, mean_estimate, ratio_estimate

__all__ = [
    "CONTROL_PAIRS",
    "DRAWS",
    "PAIRS",
    "TIMES",
    "TOLERANCES",
    "control_certificates",
    "kernel_certificate",
]

TIMES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
PAIRS, CONTROL_PAIRS, LEAST_PAIRS = 16384, 1024, 1000
DRAWS, LEAST_DRAWS = 8, 4
EXACT = "donot_use_mm_for_euclid_dist"  # no differences of large squares
MASS_DRAWS = 2  # draws a pair whose modes are counted
MASS_INFORMATION = 25  # Σ p(j | x_t) (1 - p(j | x_t)) below which a mode's mass is no test: its law is not normal

TOLERANCES = {
    "variance ratio": 0.03,
    "mode mass": 0.02,
    "energy distance": 0.01,
    "TARP": 0.02,
    "ranks": 0.02,
    "two steps": 0.02,
}


def kernel_certificate(
    posterior: Posterior,
    mixture: GaussianMixture,
    schedule: Schedule,
    *,
    seed: int = 0,
    pairs: int = PAIRS,
    draws: int = DRAWS,
    times: Sequence[float] = TIMES,
    progress: bool = False,
) -> Certificate:
    """Certify any posterior (x_t, t, noise) -> x_0 against the exact one of ``mixture``.

    Costs about pairs × (draws + 2) draws at each of ``times``. Raises :class:`InvalidArgumentError` for too
    few pairs or draws, NaN, draws of another shape, and samplers that ignore their key.
    """
    check_times(times)
    first = Noise.of(seed, 2)
    check_posterior(posterior, mixture.sample(first), float(times[-1]), first)
    return _certificate(posterior, mixture, schedule, seed, pairs, draws, times, progress)


def control_certificates(
    mixture: GaussianMixture,
    schedule: Schedule,
    *,
    seed: int = 0,
    pairs: int = CONTROL_PAIRS,
    draws: int = DRAWS,
    times: Sequence[float] = TIMES,
    progress: bool = False,
) -> dict[str, Certificate]:
    """The certificates of the controls of ``mixture``: each must be rejected, over all t together.

    (A moment-matched Gaussian is exact at every t where the posterior has one mode.)
    """
    check_times(times)
    return {
        name: _certificate(control, mixture, schedule, seed, pairs, draws, times, progress)
        for name, control in control_posteriors(mixture, schedule).items()
    }


def _certificate(
    posterior: Posterior,
    mixture: GaussianMixture,
    schedule: Schedule,
    seed: int,
    pairs: int,
    draws: int,
    times: Sequence[float],
    progress: bool,
) -> Certificate:
    if pairs < LEAST_PAIRS or draws < LEAST_DRAWS:
        raise InvalidArgumentError(
            f"{pairs} pairs with {draws} draws are too few for the tests' level: at least {LEAST_PAIRS} "
            f"pairs with {LEAST_DRAWS} draws are needed, and {PAIRS} pairs for a verdict"
        )

    def pairs_at(t: float, noise: Noise) -> ExactPairs:
        exact = oracle_pairs(mixture, schedule, t, noise.fold(0))
        joint = JointDraws(exact.x_0, exact.x_t, t, draw(posterior, exact.x_t, t, draws, noise.fold(1)))
        return ExactPairs(PosteriorPairs(joint, posterior, schedule, mixture.root_mean_square(), noise), exact, mixture)

    measures = variance_ratio, mode_mass, energy, exact_calibration, two_steps
    return certified(pairs_at, measures, times, pairs=pairs, draws=draws, seed=seed, progress=progress)


@final
@dataclass(frozen=True, eq=False)
class ExactPairs:
    """Pairs at one t, and what the ``mixture`` knows of them."""

    pairs: PosteriorPairs
    exact: OraclePairs
    mixture: GaussianMixture


def variance_ratio(seen: ExactPairs) -> Iterator[Finding]:
    """E s² over E tr Cov[x_0 | x_t]."""
    joint, trace = seen.pairs.joint, seen.exact.trace
    spread = joint.draws.var(dim=0).sum(dim=1).double()
    excess = mean_estimate(spread - trace)
    yield _finding("variance ratio", joint.t, ratio_estimate(spread, trace), 1.0, z_p_value(excess, 0.0))


def mode_mass(seen: ExactPairs) -> Iterator[Finding]:
    """The largest error of the mean posterior mass over modes, told apart by name and by rank."""
    joint, mass = seen.pairs.joint, seen.exact.mass
    hits = [responsibilities(seen.mixture, seen.pairs.schedule, one) for one in joint.draws[:MASS_DRAWS]]
    found = torch.stack(hits).mean(dim=0)
    order = mass.argsort(dim=1, descending=True)
    error = torch.cat([found - mass, (found - mass).gather(1, order)], dim=1)
    chance = mass * (1 - mass)
    informed = torch.cat([chance.sum(dim=0), chance.gather(1, order).sum(dim=0)]) > MASS_INFORMATION
    estimates = [mean_estimate(column) for column in error.T]
    largest = max(estimates, key=lambda one: abs(one.value))
    p_values = [z_p_value(one, 0.0) for one, use in zip(estimates, informed.tolist(), strict=True) if use]
    size = Estimate(abs(largest.value), largest.error, largest.band)
    yield _finding("mode mass", joint.t, size, 0.0, combined_p_value(p_values) if p_values else 1.0)


def energy(seen: ExactPairs) -> Iterator[Finding]:
    """The energy distance to the oracle's draws, and its floor: the oracle's against the oracle's."""
    joint, oracle = seen.pairs.joint, seen.exact.oracle
    yield _excess("energy distance", joint.t, ratio_estimate(*conditional_energy(joint.draws, oracle)))
    half = ORACLE_DRAWS // 2
    floor = ratio_estimate(*conditional_energy(oracle[:half], oracle[half:]))
    yield Finding("energy floor", joint.t, floor, 0.0)


def exact_calibration(seen: ExactPairs) -> Iterator[Finding]:
    """TARP and ranks, which exact draws bring within a tolerance."""
    return calibration(seen.pairs, TOLERANCES["TARP"])


def two_steps(seen: ExactPairs) -> Iterator[Finding]:
    """t → t/2 → 0 from two of the draws, against the others, which went t → 0."""
    pairs, joint = seen.pairs, seen.pairs.joint
    n, u, noise = len(joint.x_t), joint.t / 2, pairs.noise.fold(3)
    from_t, to_u = joint.x_t.new_full((n,), joint.t), joint.x_t.new_full((n,), u)
    ends: list[Tensor] = []
    for k, x_0 in enumerate(joint.draws[:2]):
        x_u = pairs.schedule.bridge(x_0, joint.x_t, from_t, to_u, noise.fold(2 * k).normal(*x_0.shape[1:]))
        ends.append(draw(pairs.posterior, x_u, u, 1, noise.fold(2 * k + 1))[0])
    apart, _ = conditional_energy(torch.stack(ends), joint.draws[2:])
    yield _excess("two steps", joint.t, ratio_estimate(apart, _mean_distance(seen.exact.oracle)))


def conditional_energy(
    y: Float[Tensor, "K n d"], o: Float[Tensor, "L n d"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """2 mean ‖y - o‖ - mean ‖y - y'‖ - mean ‖o - o'‖ for each x_t, over distinct draws; and the last."""
    across = torch.cdist(y.transpose(0, 1), o.transpose(0, 1), compute_mode=EXACT).mean(dim=(1, 2))
    scale = _mean_distance(o)
    return 2 * across - _mean_distance(y) - scale, scale


def _mean_distance(x: Float[Tensor, "K n d"]) -> Float[Tensor, " n"]:
    """mean ‖x - x'‖ over distinct draws."""
    count, x = len(x), x.transpose(0, 1)
    return torch.cdist(x, x, compute_mode=EXACT).sum(dim=(1, 2)) / (count * (count - 1))


def _finding(measure: str, t: float, found: Estimate, target: float, p_value: float) -> Finding:
    return Finding(measure, t, found, target, p_value, TOLERANCES[measure])


def _excess(measure: str, t: float, found: Estimate) -> Finding:
    """A distance, which exact draws bring to zero and nothing brings below it."""
    p_value = z_p_value(found, 0.0, one_sided=True)
    return Finding(measure, t, found, 0.0, p_value, TOLERANCES[measure], one_sided=True)
