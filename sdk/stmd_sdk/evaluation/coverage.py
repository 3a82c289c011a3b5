"""Certificates without an oracle: held-out x_0 and x_t ~ q(x_t | x_0) are joint draws, on images too.

Against the truth alone (see :mod:`.calibration`), at each t:

- *projection coverage*: how often the central 90 % interval of 19 draws, their smallest to their largest,
  covers the truth along 16 random directions. The primary statistic for images: a projection has no ties, and
  no pixel can hide in it or dominate it.
- *pixel coverage*: the same for the pixels that are not constant given x_t (:func:`.calibration.lively`), at a
  tenth of c_out (:func:`.calibration.at_resolution`): constant ones would rank at random, and ranks alone punish draws
  for deviations that nobody sees.
- *feature coverage*: the same along 16 random directions of features, where the caller has any: what a classifier
  sees of an image is no sum of pixels. For reading.
- *spread-skill*, *CRPS*, *TARP* and *ranks* for reading; the verdict rests on the two coverages.

What passes here has calibrated marginals, not the right posterior: coverage cannot see that two pixels go
together, or that draws ignore x_t where they still have the data's law along every direction. Spread-skill
cannot either. CRPS can tell two calibrated models apart: the one that uses x_t scores lower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule
from ..diffusion.target import ResidualTarget
from ..errors import InvalidArgumentError
from .calibration import (
    at_resolution,
    coverage_curve,
    crps,
    deviation,
    histogram,
    interval_coverage,
    lively,
    projected_ranks,
    ranks,
    ranks_along,
    spread_skill,
    tarp_ranks,
    uniformity,
)
from .certificate import PosteriorPairs, certified
from .finding import Certificate, Finding, z_p_value
from .joint import check_data, check_posterior, check_times, joint_draws
from .statistics import Estimate, bridge_p_value, combined_p_value, estimate

__all__ = [
    "HELDOUT_DRAWS",
    "HELDOUT_PAIRS",
    "HELDOUT_TIMES",
    "LEVEL",
    "calibration",
    "coverage_p_value",
    "heldout_certificate",
]

HELDOUT_TIMES = (0.03, 0.12, 0.3, 0.5, 0.8)
HELDOUT_DRAWS, HELDOUT_PAIRS, LEAST_PAIRS = 19, 1024, 100
LEVEL, TOLERANCE = 0.9, 0.02
DIRECTIONS, INTERVAL_DIRECTIONS = 8, 16


def heldout_certificate(
    posterior: Posterior,
    x_0: Float[Tensor, "n *d"],
    schedule: Schedule,
    sigma_data: float,
    *,
    seed: int = 0,
    draws: int = HELDOUT_DRAWS,
    times: Sequence[float] = HELDOUT_TIMES,
    classes: Mapping[str, Int[Tensor, " k"]] | None = None,
    features: Callable[[Float[Tensor, "n *d"]], Float[Tensor, "n f"]] | None = None,
    progress: bool = False,
) -> Certificate:
    """Certify a posterior on held-out data ``x_0`` that it was not trained on; ``sigma_data`` is their σ_d.

    Costs n × draws draws at each of ``times``; ``draws`` is 19, 39, ... so that 90 % intervals are exact. ``classes``
    are the rows of classes by name, whose coverage is shown apart, and ``features`` a map of samples, as x_0 are, to
    vectors, along whose directions coverage is shown too.
    """
    check_times(times)
    n = len(x_0)
    if n < max(LEAST_PAIRS, 5 * (draws + 1)):
        raise InvalidArgumentError(
            f"{n} held-out samples are too few for the tests' level: at least "
            f"{max(LEAST_PAIRS, 5 * (draws + 1))} are needed with {draws} draws"
        )
    check_data(x_0)
    check_posterior(posterior, x_0[:1], float(times[-1]), Noise.of(seed, 2))

    def pairs_at(t: float, noise: Noise) -> PosteriorPairs:
        joint = joint_draws(posterior, schedule, x_0, t, draws, noise.fold(0))
        return PosteriorPairs(joint, posterior, schedule, sigma_data, noise)

    by_class = [partial(class_coverages, classes=classes)] if classes else []
    seen = [partial(feature_coverage, features=features)] if features else []
    measures = coverages, calibration, *seen, *by_class
    return certified(pairs_at, measures, times, pairs=n, draws=draws, seed=seed, progress=progress)


def calibration(pairs: PosteriorPairs, tolerance: float | None = None) -> Iterator[Finding]:
    """TARP and ranks, with their curves."""
    joint, noise = pairs.joint, pairs.noise.fold(2)
    n, count = len(joint.x_0), len(joint.draws)
    tarp = tarp_ranks(joint, pairs.schedule, pairs.sigma_data, noise.fold(0))
    covered, curve = deviation(tarp, count), tuple(coverage_curve(tarp, count).tolist())
    yield Finding("TARP", joint.t, covered, 0.0, bridge_p_value(covered.value, n, count), tolerance, curve=curve)
    rank = projected_ranks(joint, DIRECTIONS, noise.fold(1))
    farthest = max((deviation(column, count, tests=DIRECTIONS) for column in rank.T), key=lambda one: one.value)
    p_value = combined_p_value([uniformity(column, count) for column in rank.T])
    counts = tuple(histogram(rank, count).tolist())
    yield Finding("ranks", joint.t, farthest, 0.0, p_value, tolerance, curve=counts)


def coverages(pairs: PosteriorPairs) -> Iterator[Finding]:
    """Coverage of 90 % intervals along projections and at the pixels, spread over skill, CRPS."""
    joint, noise = pairs.joint, pairs.noise.fold(1)
    count, t = len(joint.draws), joint.t
    along = interval_coverage(projected_ranks(joint, INTERVAL_DIRECTIONS, noise.fold(0)), count, LEVEL)
    yield Finding("projection coverage", t, along, LEVEL, coverage_p_value(along), TOLERANCE)
    _, c_out = ResidualTarget(pairs.schedule, pairs.sigma_data).coefficients(torch.tensor([t]))
    alive, seen = lively(joint, float(c_out)).flatten(1), at_resolution(joint, float(c_out), noise.fold(2))
    pixels = ranks(seen.x_0.flatten(1), seen.draws.flatten(2), noise.fold(1))
    within = interval_coverage(pixels, count, LEVEL, alive)
    yield Finding("pixel coverage", t, within, LEVEL, coverage_p_value(within), TOLERANCE)
    spread = spread_skill(joint)
    yield Finding("spread-skill", t, spread, 1.0, z_p_value(spread, 1.0))
    yield Finding("CRPS", t, crps(joint), None)


def class_coverages(pairs: PosteriorPairs, classes: Mapping[str, Int[Tensor, " k"]]) -> Iterator[Finding]:
    """Coverage of 90 % intervals along projections, of each class's pairs by themselves; no verdict rests on it."""
    along = projected_ranks(pairs.joint, INTERVAL_DIRECTIONS, pairs.noise.fold(1).fold(0))
    for name, rows in classes.items():
        found = interval_coverage(along[rows], len(pairs.joint.draws), LEVEL)
        yield Finding(f"projection coverage of {name}", pairs.joint.t, found, LEVEL, coverage_p_value(found))


def feature_coverage(
    pairs: PosteriorPairs, features: Callable[[Float[Tensor, "n *d"]], Float[Tensor, "n f"]]
) -> Iterator[Finding]:
    """Coverage of 90 % intervals along directions of features; no verdict rests on it.

    Exact for exact draws, whatever the features: they are functions of a sample, alike of the truth and the draws.
    """
    joint = pairs.joint
    truth, draws = features(joint.x_0), torch.stack([features(one) for one in joint.draws])
    if not bool(truth.isfinite().all() and draws.isfinite().all()):
        raise InvalidArgumentError("the features have values that are NaN or infinite")
    along = ranks_along(truth, draws, INTERVAL_DIRECTIONS, pairs.noise.fold(4))
    found = interval_coverage(along, len(draws), LEVEL)
    yield Finding("feature coverage", joint.t, found, LEVEL, coverage_p_value(found))


def coverage_p_value(found: Estimate) -> float:
    """With the error that a share of ``LEVEL`` has: that of the share found vanishes as it nears 1 (a score test)."""
    variance = found.value * (1 - found.value)
    scale = math.sqrt(LEVEL * (1 - LEVEL) / variance) if variance > 0 else 1.0
    return z_p_value(estimate(found.value, scale * found.error), LEVEL)
