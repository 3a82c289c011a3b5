"""Importance weights: effective sample size, resampling, and the next temperature of a tempered likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.noise import Noise
from ..errors import InferenceError, InvalidArgumentError

__all__ = [
    "check_powers",
    "check_share",
    "effective_roots",
    "effective_share",
    "log_mean",
    "log_ratio",
    "next_temperature",
    "systematic",
]

HALVINGS = 50


def check_share(name: str, share: float) -> None:
    """Raise unless ``share`` lies strictly between 0 and 1."""
    if not 0 < share < 1:
        raise InvalidArgumentError(f"{name} is a share of effective samples, between 0 and 1, got {share}")


def check_powers(tempering: float | Sequence[float], steps: int) -> None:
    """Raise unless ``tempering`` is a share, or one power of the likelihood a step, rising from 0 or more to 1."""
    if isinstance(tempering, int | float):
        check_share("tempering", tempering)
        return
    powers = [0.0, *tempering]
    if len(powers) != steps + 1 or powers[-1] != 1 or any(a > b for a, b in pairwise(powers)):
        raise InvalidArgumentError(f"tempering must give {steps} rising powers, 1 at last, got {list(tempering)}")


def effective_share(log_weights: Float[Tensor, " n"]) -> float:
    """(Σ w)² / (n Σ w²): the effective sample size over the number of samples, in (0, 1]."""
    weights = log_weights.double().softmax(dim=0)
    return 1 / (len(weights) * float(weights.square().sum()))


def effective_roots(log_weights: Float[Tensor, " n"], roots: Int[Tensor, " n"]) -> float:
    """1 / Σ_r (Σ_{i from r} w_i)²: how many of the starting particles the weighted ones still stand for.

    Resampling hides from the weights that few families are left; this does not. The relative error of the evidence
    is about √(1/roots - 1/n) (Lee and Whiteley, 2018).
    """
    weights = log_weights.double().softmax(dim=0)
    return 1 / float(torch.zeros_like(weights).index_add(0, roots, weights).square().sum())


def log_mean(log_weights: Float[Tensor, " n"]) -> float:
    """log of the mean weight."""
    return float(log_weights.double().logsumexp(dim=0)) - math.log(len(log_weights))


def log_ratio(beta: float, new: Float[Tensor, " n"], old: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """β (new - old); of two impossible states none is better, so -inf against -inf gives 0."""
    both = (new == -torch.inf) & (old == -torch.inf)
    return torch.zeros_like(new) if beta == 0 else torch.where(both, 0, beta * (new - old))


def systematic(log_weights: Float[Tensor, " n"], noise: Noise) -> Int[Tensor, " n"]:
    """Rows drawn in proportion to their weights, by systematic resampling: one uniform, that of the first key.

    Row i is taken floor or ceil of n w_i times, n w_i in the mean (Douc and Cappé, 2005).
    """
    n = len(log_weights)
    cumulative = log_weights.double().softmax(dim=0).cumsum(dim=0)
    levels = (torch.arange(n, device=cumulative.device) + noise[:1].uniform().double()) / n
    return torch.searchsorted(cumulative, levels * cumulative[-1]).clamp(max=n - 1)


def next_temperature(log_weights: Float[Tensor, " n"], values: Float[Tensor, " n"], beta: float, keep: float) -> float:
    """The largest β' <= 1 at which the weights w exp((β' - β) values) keep a share ``keep`` of those of w.

    What is impossible (a value of -inf) is lost at any β' > β and not counted. Found by bisection.
    """
    possible = values.isfinite()
    if not bool(possible.any()):
        raise InferenceError(
            f"the log-likelihood is -inf for all {len(values)} samples of the prior: nothing can be weighed. "
            "Take more samples, or a likelihood that is positive near the data"
        )
    weights, finite = log_weights[possible].double(), values[possible].double()
    target = keep * effective_share(weights)

    def enough(candidate: float) -> bool:
        return effective_share(weights + (candidate - beta) * finite) >= target

    if enough(1.0):
        return 1.0
    low, high = beta, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low
