"""Simulation-based calibration of posterior solvers: whether draws given y are exchangeable with the x that made y.

x ~ p(x), y from x, draws of p(x | y): then x and the draws are exchangeable given y, and the rank of any number of x
among those of the draws is uniform (Talts et al., 2018; Modrák et al., 2023). Where x is of the prior that the solver
uses, an exact mixture's or a model's own law, what is tested is the solver: no held-out data and no oracle. Looked at:

- *projection coverage*, *projections*: 90 % intervals and ranks along random directions;
- *pixel coverage*: 90 % intervals of the coordinates that are not constant given y;
- *log-likelihood*: the mean rank of log p(y | x): a measurement that is trusted too much or too little;
- *distance*: the mean rank of the distance from the middle of x and its draws, in the measure of their covariance over
  all pairs. It sums up the spread of all coordinates: above ½ the draws are too narrow.

Draws that depend on each other, as particles with common ancestors do, are more like each other than like x, and rank
as too narrow: thin them from many.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError
from ..operators import GaussianNoise, Measurement, Operator, PoissonNoise
from ..progress import progress_bar
from .calibration import coverage_curve, deviation, interval_coverage, lively, projected_ranks, ranks
from .coverage import LEVEL, coverage_p_value
from .finding import Certificate, Finding, z_p_value
from .joint import JointDraws, check_data
from .statistics import bridge_p_value, combined_p_value, estimate

__all__ = ["SOLVER_DRAWS", "SOLVER_LEVEL", "SolvedPairs", "Solver", "solved_pairs", "solver_certificate"]

SOLVER_PAIRS, SOLVER_DRAWS, LEAST_PAIRS = 200, 59, 20
SOLVER_LEVEL = 0.01
DIRECTIONS = 16
CUTOFF = 1e-3  # of the largest variance: below it a direction is a constant


@runtime_checkable  # for the checks of annotations in the tests
class Solver(Protocol):
    """Draws of p(x | y): ``noise`` holds a key a draw, and all randomness should come from it or its seed."""

    def __call__(self, y: Float[Tensor, "1 *m"], noise: Noise, draws: int, /) -> Float[Tensor, "draws *d"]:
        """``draws`` independent draws given one measurement."""
        ...


@final
@dataclass(frozen=True, eq=False)
class SolvedPairs:
    """n pairs of x and y, K draws given each y, and log p(y | x) of all of them."""

    joint: JointDraws
    log_likelihood: Float[Tensor, " n"]
    log_likelihoods: Float[Tensor, "K n"]
    measurements: tuple[Measurement, ...]
    seed: int
    seconds: float

    def shrunk(self, factor: float = 0.95) -> SolvedPairs:
        """The same with the draws drawn towards their mean: wrong on purpose, a calibration must see it."""
        mean = self.joint.draws.mean(dim=0)
        draws = mean + factor * (self.joint.draws - mean)
        return replace(
            self, joint=replace(self.joint, draws=draws), log_likelihoods=_likelihoods(self.measurements, draws)
        )

    def certificate(self) -> Certificate:
        """The findings; ``rejected(SOLVER_LEVEL)`` are those that contradict exact draws."""
        count, n = len(self.joint.draws), len(self.joint.x_0)
        return Certificate(tuple(_findings(self)), n, count, self.seed, self.seconds)


def solver_certificate(
    solver: Solver,
    x: Float[Tensor, "n *d"],
    operator: Operator,
    noise_model: GaussianNoise | PoissonNoise,
    *,
    draws: int = SOLVER_DRAWS,
    seed: int = 0,
    progress: bool = False,
) -> Certificate:
    """Calibrate any solver of p(x | y), y = A x and noise, by draws ``x`` of the prior that it should use.

    ``draws`` is 19, 39, 59, ... for each of n pairs, n at least 20; 200 see that draws are a twentieth too narrow where
    many coordinates are free. Raises :class:`InvalidArgumentError` for draws of another shape or with NaN.
    """
    return solved_pairs(solver, x, operator, noise_model, draws=draws, seed=seed, progress=progress).certificate()


def solved_pairs(
    solver: Solver,
    x: Float[Tensor, "n *d"],
    operator: Operator,
    noise_model: GaussianNoise | PoissonNoise,
    *,
    draws: int = SOLVER_DRAWS,
    seed: int = 0,
    progress: bool = False,
) -> SolvedPairs:
    """Measure each x and draw given its y: what :func:`solver_certificate` looks at."""
    check_integer("pairs", len(x), LEAST_PAIRS)
    check_integer("draws", draws, 19)
    if (draws + 1) % 20:
        raise InvalidArgumentError(f"draws must be 19, 39, 59, ... for exact intervals of 90 %, got {draws}")
    check_data(x)
    began, given, measurements = time.perf_counter(), list[Tensor](), list[Measurement]()
    with progress_bar("calibrating", len(x), "pair", progress) as advance:
        for i, truth in enumerate(x):
            key = Noise.of(seed, draws).fold(i)
            measured = Measurement.of(operator, truth[None], noise_model, key[:1].fold(0))
            one = solver(measured.y, key.fold(1), draws)
            if one.shape != (draws, *x.shape[1:]) or not bool(one.isfinite().all()):
                raise InvalidArgumentError(
                    f"a solver gives {draws} finite draws of shape {list(x.shape[1:])}, this one gave "
                    f"{list(one.shape)}{'' if bool(one.isfinite().all()) else ' with NaN or infinity'}"
                )
            given.append(one.to(x))
            measurements.append(measured)
            advance()
    joint, measured = JointDraws(x, torch.zeros_like(x), 0.0, torch.stack(given, dim=1)), tuple(measurements)
    truths, found = _likelihoods(measured, x[None])[0], _likelihoods(measured, joint.draws)
    return SolvedPairs(joint, truths, found, measured, seed, time.perf_counter() - began)


def _likelihoods(measurements: tuple[Measurement, ...], draws: Float[Tensor, "K n *d"]) -> Float[Tensor, "K n"]:
    return torch.stack([one(draws[:, i]) for i, one in enumerate(measurements)], dim=1)


def _findings(pairs: SolvedPairs) -> Iterator[Finding]:
    joint, noise = pairs.joint, Noise.of(pairs.seed, max(len(pairs.joint.x_0), DIRECTIONS)).fold(1 << 20)
    n, count = len(joint.x_0), len(joint.draws)
    rows = noise[:n]
    # As many directions as say something new.
    along = projected_ranks(joint, min(DIRECTIONS, n, joint.x_0[0].numel()), rows.fold(0))
    covered = interval_coverage(along, count, LEVEL)
    yield Finding("projection coverage", 0.0, covered, LEVEL, coverage_p_value(covered))
    columns = [deviation(column, count, tests=along.shape[1]) for column in along.T]
    p_value = combined_p_value([bridge_p_value(one.value, n, count) for one in columns])
    yield Finding("projections", 0.0, max(columns, key=lambda one: one.value), 0.0, p_value)
    scale = float((joint.x_0 - joint.x_0.mean(dim=0)).square().mean().sqrt())
    pixels = ranks(joint.x_0.flatten(1), joint.draws.flatten(2), rows.fold(1))
    within = interval_coverage(pixels, count, LEVEL, lively(joint, scale).flatten(1))
    yield Finding("pixel coverage", 0.0, within, LEVEL, coverage_p_value(within))
    yield _ranked("log-likelihood", pairs.log_likelihood, pairs.log_likelihoods, rows.fold(2))
    distances = _distances(torch.cat([joint.x_0[None], joint.draws]).flatten(2))
    yield _ranked("distance", distances[0], distances[1:], rows.fold(3))


def _distances(everything: Float[Tensor, "k n p"]) -> Float[Tensor, "k n"]:
    """Of each from the mean of its pair's, by the inverse of the covariance over pairs, its small part cut off."""
    away = (everything - everything.mean(dim=0)).double()
    covariance = torch.einsum("knp,knq->pq", away, away) / (len(away) - 1) / away.shape[1]
    values, axes = torch.linalg.eigh(covariance)
    return torch.linalg.vector_norm(
        (away @ axes) / values.clamp(min=CUTOFF * float(values.max())).sqrt(), dim=2
    ).float()


def _ranked(what: str, truth: Float[Tensor, " n"], draws: Float[Tensor, "K n"], noise: Noise) -> Finding:
    """The mean of (rank + ½) / (K + 1), ½ for exact draws, with the error that uniform ranks have."""
    rank, bins = ranks(truth, draws, noise), len(draws) + 1
    mean = float((rank.double() + 0.5).mean()) / bins
    found = estimate(mean, math.sqrt((1 - bins**-2) / 12 / len(rank)))
    return Finding(what, 0.0, found, 0.5, z_p_value(found, 0.5), curve=tuple(coverage_curve(rank, len(draws)).tolist()))
