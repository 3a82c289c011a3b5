"""Running chains and particles to their end, and what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..errors import InferenceError, InferenceWarning
from ..progress import progress_bar
from .chain import ChainStep
from .coupling import Coupling, LinearCoupling
from .diagnostics import LEAST_STEPS, effective_samples, split_r_hat
from .gibbs import GibbsStep
from .resampling import effective_roots, systematic
from .steering import SteeringStep
from .summary import PosteriorSummary, posterior_summary

__all__ = ["ChainDraws", "GibbsDraws", "SteeredDraws", "run_chains", "run_gibbs", "run_particles"]

PROJECTIONS = 8
MIXED = 1.1  # R̂ above it says that chains disagree
COLLAPSED = 0.01  # share of the starts below which an ensemble rests on too few families

Decode = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, eq=False)
class ChainDraws:
    """The chains' last states, one equally weighted draw of p(x_0 | y) each, and how far to trust them.

    ``acceptance`` is the accepted share by noise level t, of the steps at the full likelihood. ``ess`` and
    ``r_hat`` are the least effective sample size and the largest R̂ over log L and 8 random projections, of those
    ``steps`` alone; None if there were fewer than 4. Of tempered chains ``log_evidence`` is log p(y), with a standard
    error of about √(1/roots), and ``roots`` how many of the starts they effectively go back to; else both are None.
    """

    samples: Float[Tensor, "n *d"]
    log_likelihood: Float[Tensor, " n"]
    acceptance: dict[float, float]
    ess: float | None
    r_hat: float | None
    log_evidence: float | None
    roots: float | None
    steps: int

    @property
    def log_weights(self) -> Float[Tensor, " n"]:
        """Zeros."""
        return torch.zeros_like(self.log_likelihood)


@final
@dataclass(frozen=True, eq=False)
class SteeredDraws:
    """Weighted draws of p(x_0) exp(reward) and log E[exp(reward)].

    ``ess`` is how many of the starts the weighted samples effectively go back to: the evidence has a relative error
    of about √(1/ess). ``path_ess`` is the effective share of the weights before each step's resampling.
    """

    samples: Float[Tensor, "n *d"]
    log_weights: Float[Tensor, " n"]
    ess: float
    path_ess: tuple[float, ...]
    log_evidence: float

    def resampled(self, seed: int) -> Float[Tensor, "n *d"]:
        """As many equally weighted draws, some of them more than once."""
        rows = systematic(self.log_weights, Noise.of(seed, 1, device=self.log_weights.device))
        return self.samples[rows]


@final
@dataclass(frozen=True, eq=False)
class GibbsDraws:
    """Equally weighted draws of p(x_0 | y) by split Gibbs sampling, each for ``evaluations`` of the network.

    ``levels`` are the couplings ρ of the moves. ``exact``: the last of them is small enough for the posterior itself;
    else the draws are those of a likelihood with more noise: of deviation ρ s along the gains s > sigma / ρ of a
    linear operator, of any other likelihood that of x + N(0, ρ² I). Of resampled draws ``ess`` is the effective share
    at each level before they were resampled, ``roots`` how many of the starts they effectively go back to, and
    ``log_evidence`` log p(y), off by some √(1/roots); else all three are None.
    """

    samples: Float[Tensor, "n *d"]
    levels: tuple[float, ...]
    evaluations: int
    exact: bool
    log_evidence: float | None
    ess: tuple[float, ...] | None
    roots: float | None

    def summary(self, *, level: float = 0.9) -> PosteriorSummary:
        """Mean, deviation and central intervals of probability ``level``."""
        return posterior_summary(self.samples, level=level)


def run_chains(
    chains: Iterator[ChainStep], steps: int, decode: Decode, tempered: bool, progress: bool = False
) -> ChainDraws:
    """Take ``steps`` steps of all chains, follow their statistics and sum them up."""
    trace, rates = list[Tensor](), dict[float, list[float]]()
    last: ChainStep | None = None
    with progress_bar("chains", steps, "step", progress) as advance:
        for last in islice(chains, steps):
            advance()
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
            stacklevel=3,
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
    with progress_bar("steering", steps, "step", progress) as advance:
        for last in particles:
            advance()
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
    with progress_bar("gibbs", steps, "level", progress) as advance:
        for last in islice(walk, steps):
            advance()
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
    impossible = int((coupling.log_weight(last.x_0, last.z, last.rho) == -torch.inf).sum())
    n, samples = len(last.x_0), decode(last.x_0)
    if impossible == n:
        raise InferenceError(f"the log-likelihood is -inf for all {n} draws: it forbids everything near the data")
    if impossible:
        warnings.warn(f"{impossible} of {n} draws have a log-likelihood of -inf", InferenceWarning, stacklevel=3)
    if isinstance(coupling, LinearCoupling) and not coupling.exact:
        noise = coupling.last * coupling.deflation.largest
        warnings.warn(
            f"sigma {coupling.deflation.sigma:.3g} is below what the model can tell: the draws are those for noise "
            f"of deviation up to {noise:.3g}, by a coupling that ends at {coupling.last:.3g}",
            InferenceWarning,
            stacklevel=3,
        )
    cost = evaluations[0] + evaluations[1] * len(levels)
    if not resampled:
        return GibbsDraws(samples, tuple(levels), cost, coupling.exact, None, None, None)
    roots = effective_roots(torch.zeros(n, device=samples.device), last.roots)
    _warn_of_collapse(roots, n, "draws", "draws")
    return GibbsDraws(samples, tuple(levels), cost, coupling.exact, last.log_evidence, tuple(shares), roots)


def _warn_of_collapse(roots: float, n: int, what: str, advice: str) -> None:
    if roots < max(2.0, COLLAPSED * n):
        warnings.warn(
            f"the ensemble has collapsed: all {n} {what} effectively go back to {roots:.1f} of their starts, and the "
            f"log-evidence is off by some {(1 / roots) ** 0.5:.1g} or more. Take more {advice}",
            InferenceWarning,
            stacklevel=4,
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
