"""What others do with a posterior mean E[x_0 | x_t]: DDIM and DPM-Solver++ draw from it, DPS guides it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.posterior import Posterior
from stmd_sdk.diffusion.schedule import Schedule, expand
from stmd_sdk.operators import Operator

__all__ = ["ddim", "dpm_solver", "dps"]


def ddim(
    posterior: Posterior, schedule: Schedule, times: Sequence[float], shape: tuple[int, ...], noise: Noise
) -> Float[Tensor, "b *d"]:
    """DDIM with η = 0 (Song et al., 2021)."""
    x = noise.fold(0).normal(*shape)
    for t, s in pairwise(x.new_tensor(times)[:, None].expand(-1, len(x))):
        x_0 = posterior(x, t, noise)
        epsilon = (x - expand(schedule.alpha(t), x) * x_0) / expand(schedule.sigma(t), x)
        x = schedule.marginal(x_0, s, epsilon)
    return x


def dpm_solver(
    posterior: Posterior, schedule: Schedule, times: Sequence[float], shape: tuple[int, ...], noise: Noise
) -> Float[Tensor, "b *d"]:
    """DPM-Solver++(2M) (Lu et al., 2022), its first and last step of first order."""
    x = noise.fold(0).normal(*shape)
    before: tuple[Tensor, Tensor] | None = None  # the last x_0, and the step in λ = log(α/σ) that it was made for
    for t, s in pairwise(x.new_tensor(times)[:, None].expand(-1, len(x))):
        x_0 = posterior(x, t, noise)
        if float(s[0]) == 0:
            return x_0
        h = _half_log_snr(schedule, s) - _half_log_snr(schedule, t)
        ratio = expand(schedule.sigma(s) / schedule.sigma(t), x)
        slope = 0 if before is None else expand(h / (2 * before[1]), x) * (x_0 - before[0])
        x = ratio * x - expand(schedule.alpha(s) * torch.expm1(-h), x) * (x_0 + slope)
        before = x_0, h
    return x


def dps(
    posterior: Posterior,
    schedule: Schedule,
    times: Sequence[float],
    shape: tuple[int, ...],
    noise: Noise,
    operator: Operator,
    y: Tensor,
    zeta: float,
) -> Float[Tensor, "b *d"]:
    """DPS (Chung et al., 2022): ancestral steps less zeta ∇‖y - A E[x_0 | x_t]‖; a gradient of the mean each."""
    x = noise.fold(0).normal(*shape)
    for k, (t, s) in enumerate(pairwise(x.new_tensor(times)[:, None].expand(-1, len(x))), 1):
        x = x.requires_grad_()
        x_0 = posterior(x, t, noise.fold(2 * k - 1))
        residual = (y - operator.A(x_0)).flatten(1).norm(dim=1)
        (gradient,) = torch.autograd.grad(residual.sum(), x)
        epsilon = noise.fold(2 * k).normal(*shape)
        x = schedule.bridge(x_0.detach(), x.detach(), t, s, epsilon) - zeta * gradient
    return x


def _half_log_snr(schedule: Schedule, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    return schedule.alpha(t).log() - schedule.sigma(t).log()
