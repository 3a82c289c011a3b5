"""Running chains and particles to their end, and summing up what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from ..diffusion.noise import Noise
from ..errors import InferenceError, InferenceWarning
from ..progress import progress_bar
from .chain import ChainStep
from .coupling import Coupling, LinearCoupling
from .diagnostics import LEAST_STEPS, effective_samples, split_r_hat
from .draws import ChainDraws, GibbsDraws, SteeredDraws
from .gibbs import GibbsStep
from .resampling import effective_roots
from .steering import SteeringStep

__all__ = ["run_chains", "run_gibbs", "run_particles"]

PROJECTIONS = 8
MIXED = 1.1  # R̂ above it says that chains disagree
COLLAPSED = 0.01  # share of the starts below which an ensemble rests on too few families

Decode = Callable[[Tensor], Tensor]
_Step = TypeVar("_Step")


def _followed(walk: Iterator[_Step], steps: int, title: str, unit: str, progress: bool) -> Iterator[_Step]:
    """The first ``steps`` of a walk, behind a progress bar."""
    with progress_bar(title, steps, unit, progress) as advance:
        for step in islice(walk, steps):
            advance()
            yield step


def run_chains(
    chains: Iterator[ChainStep], steps: int, decode: Decode, tempered: bool, progress: bool = False
) -> ChainDraws:
    """Take ``steps`` steps of all chains, follow their statistics and sum them up."""
    trace, rates = list[Tensor](), dict[float, list[float]]()
    last: ChainStep | None = None
    for last in _followed(chains, steps, "chains", "step", progress):
        if last.beta == 1:
            trace.append(_statistics(decode(last.x_0), last.log_likelihood))
            for level in last.t.unique().tolist():
                share = last.accepted[last.t == level].float().mean()
                rates.setdefault(round(level, 4), []).append(float(share))
    assert last is not None
    if last.beta < 1:
        raise InferenceError(
            f"{steps} steps were too few to temper the likelihood: its power reached {last.beta:.3g} of 1. "
            "Give more steps, or a smaller tempering (the share of effective chains that a step keeps)"
        )
    ess, r_hat = _diagnose(trace)
    if not tempered and r_hat is not None and r_hat > MIXED:
        warnings.warn(
            f"the chains have not mixed: R-hat is {r_hat:.2f} after {steps} steps and {ess:.0f} samples are "
            f"effective; acceptance by level is {_mean(rates)}. Take more steps, other levels, or tempering",
            InferenceWarning,
            stacklevel=4,
        )
    draws, acceptance = decode(last.x_0), _mean(rates)
    if not tempered:
        return ChainDraws(draws, last.log_likelihood, acceptance, ess, r_hat, None, None, len(trace))
    roots = effective_roots(torch.zeros_like(last.log_likelihood), last.roots)
    _warn_of_collapse(roots, len(draws), "chains", "chains or steps, or a larger tempering")
    return ChainDraws(draws, last.log_likelihood, acceptance, ess, r_hat, last.log_evidence, roots, len(trace))


def run_particles(
    particles: Iterator[SteeringStep], steps: int, decode: Decode, progress: bool = False
) -> SteeredDraws:
    """Take all steps of all particles and sum them up."""
    shares, last = list[float](), None
    for last in _followed(particles, steps, "steering", "step", progress):
        shares.append(last.ess)
    assert last is not None
    n = len(last.x_t)
    if not torch.isfinite(torch.tensor(last.log_evidence)):
        raise InferenceError(f"the reward is -inf for all {n} particles: take more, or a reward that is finite")
    roots = effective_roots(last.log_weights, last.roots)
    _warn_of_collapse(roots, n, "particles", "particles or inference steps, or chain, which moves them on")
    return SteeredDraws(decode(last.x_t), last.log_weights, roots, tuple(shares), last.log_evidence)


def run_gibbs(
    walk: Iterator[GibbsStep],
    coupling: Coupling,
    steps: int,
    evaluations: tuple[int, int],
    decode: Decode,
    resampled: bool,
    progress: bool = False,
    moves: int = 1,
) -> GibbsDraws:
    """Take moves down to the last level, ``steps`` at most and ``moves`` of them there, and sum them up.

    ``evaluations`` are those of the start and of each move.
    """
    levels, shares = list[float](), list[float]()
    last: GibbsStep | None = None
    for last in _followed(walk, steps, "gibbs", "level", progress):
        levels.append(last.rho)
        shares.append(last.ess)
        moves -= last.rho <= coupling.last
        if resampled and moves == 0:
            break
    assert last is not None
    if last.rho > coupling.last and resampled:
        raise InferenceError(
            f"{steps} levels were too few: the coupling reached {last.rho:.3g}, not {coupling.last:.3g}. "
            "Give more steps"
        )
    samples = decode(last.x_0)
    _warn_of_likelihood(coupling, last)
    cost = evaluations[0] + evaluations[1] * len(levels)
    if not resampled:
        return GibbsDraws(samples, tuple(levels), cost, coupling.exact, None, None, None)
    roots = effective_roots(torch.zeros(len(samples), device=samples.device), last.roots)
    _warn_of_collapse(roots, len(samples), "draws", "draws")
    return GibbsDraws(samples, tuple(levels), cost, coupling.exact, last.log_evidence, tuple(shares), roots)


def _warn_of_likelihood(coupling: Coupling, last: GibbsStep) -> None:
    """Say where draws are impossible, or of a likelihood with more noise than was asked for."""
    impossible = int((coupling.log_weight(last.x_0, last.z, last.rho) == -torch.inf).sum())
    n = len(last.x_0)
    if impossible == n:
        raise InferenceError(f"the log-likelihood is -inf for all {n} draws: it forbids everything near the data")
    if impossible:
        warnings.warn(f"{impossible} of {n} draws have a log-likelihood of -inf", InferenceWarning, stacklevel=5)
    if isinstance(coupling, LinearCoupling) and not coupling.exact:
        noise = coupling.last * coupling.deflation.largest
        warnings.warn(
            f"sigma {coupling.deflation.sigma:.3g} is below what the model can tell: the draws are those for noise "
            f"of deviation up to {noise:.3g}, by a coupling that ends at {coupling.last:.3g}",
            InferenceWarning,
            stacklevel=5,
        )


def _warn_of_collapse(roots: float, n: int, what: str, advice: str) -> None:
    if roots < max(2.0, COLLAPSED * n):
        warnings.warn(
            f"the ensemble has collapsed: all {n} {what} effectively go back to {roots:.1f} of their starts, and the "
            f"log-evidence is off by some {(1 / roots) ** 0.5:.1g} or more. Take more {advice}",
            InferenceWarning,
            stacklevel=5,
        )


def _statistics(x: Tensor, log_likelihood: Tensor) -> Tensor:
    """log L and projections of each chain's state: [chains, 1 + PROJECTIONS]."""
    flat = x.flatten(1)
    directions = Noise.of(0, PROJECTIONS, device=x.device).normal(flat.shape[1])
    return torch.cat([log_likelihood[:, None], flat @ directions.T], dim=1)


def _diagnose(trace: Sequence[Tensor]) -> tuple[float | None, float | None]:
    if len(trace) < LEAST_STEPS:
        return None, None
    stacked = torch.stack(list(trace))
    return float(effective_samples(stacked).min()), float(split_r_hat(stacked).max())


def _mean(rates: dict[float, list[float]]) -> dict[float, float]:
    return {level: round(sum(shares) / len(shares), 4) for level, shares in sorted(rates.items())}
