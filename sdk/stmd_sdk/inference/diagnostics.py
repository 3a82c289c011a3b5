"""Diagnostics of Markov chains: R̂ and the effective sample size (Vehtari et al., 2021)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidArgumentError

__all__ = ["LEAST_STEPS", "effective_samples", "split_r_hat"]

LEAST_STEPS = 4


def split_r_hat(trace: Float[Tensor, "steps chains q"]) -> Float[Tensor, " q"]:
    """√(total variance / variance within chains), each chain cut into halves; 1 when all agree."""
    halves = _halves(trace)
    within = halves.var(dim=0).mean(dim=0)
    total = _total_variance(halves)
    return torch.where(within > 0, total / within, torch.where(total > 0, torch.inf, 1)).sqrt()


def effective_samples(trace: Float[Tensor, "steps chains q"]) -> Float[Tensor, " q"]:
    """How many independent draws are worth the chains' mean, from Geyer's initial monotone sequence.

    At most steps · chains · log10(steps · chains), as Stan reports it.
    """
    halves = _halves(trace)
    n, m, _ = halves.shape
    within, total = halves.var(dim=0).mean(dim=0), _total_variance(halves)
    rho = 1 - (within - _autocovariance(halves).mean(dim=1)) / total.clamp(min=1e-300)
    rho[0] = 1
    pairs = rho[: n // 2 * 2].reshape(n // 2, 2, -1).sum(dim=1)
    # A pair's sum is positive and falls for a reversible chain; what is not is noise.
    alive = (pairs > 0).cumprod(dim=0)
    pairs = torch.where(alive.bool(), pairs, 0).cummin(dim=0).values
    tau = (2 * pairs.sum(dim=0) - 1).clamp(min=1 / torch.tensor(n * m).log10())
    return torch.where(total > 0, n * m / tau, float(n * m))


def _halves(trace: Tensor) -> Tensor:
    """[steps / 2, 2 chains, q], float64; raises for values that are not finite, which no diagnostic would show."""
    if not bool(trace.isfinite().all()):
        raise InvalidArgumentError("the trace has values that are NaN or infinite")
    half = len(trace) // 2
    return torch.cat([trace[:half], trace[len(trace) - half :]], dim=1).double()


def _total_variance(halves: Tensor) -> Tensor:
    """(n - 1)/n W + B/n: of the target, as all chains together see it."""
    n = len(halves)
    return (n - 1) / n * halves.var(dim=0).mean(dim=0) + halves.mean(dim=0).var(dim=0)


def _autocovariance(halves: Tensor) -> Tensor:
    """[lags, chains, q] by FFT, with the divisor n (n - 1 at lag 0 would only rescale)."""
    n = len(halves)
    f = torch.fft.rfft(halves - halves.mean(dim=0), n=2 * n, dim=0)
    return torch.fft.irfft(f.abs().square(), n=2 * n, dim=0)[:n] / n
