"""Joint draws, on which all calibration rests: truths x_0, their noised x_t, and draws given x_t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule
from ..errors import InvalidArgumentError
from ..runs.chunks import chunked

__all__ = ["JointDraws", "check_data", "check_posterior", "check_times", "draw", "joint_draws"]

ROUNDING = 1e-2  # what one key's draws may differ by, relative: kernels that are not deterministic, low precision


@final
@dataclass(frozen=True, eq=False)
class JointDraws:
    """n pairs (x_0, x_t) and K draws of p(x_0 | x_t) for each.

    For the true posterior the truth and the draws are exchangeable given x_t. The pairs are independent.
    """

    x_0: Float[Tensor, "n *d"]
    x_t: Float[Tensor, "n *d"]
    t: float
    draws: Float[Tensor, "K n *d"]


def joint_draws(
    posterior: Posterior,
    schedule: Schedule,
    x_0: Float[Tensor, "n *d"],
    t: float,
    count: int,
    noise: Noise,
) -> JointDraws:
    """x_t ~ q(x_t | x_0) and ``count`` draws each; ``noise`` holds one key a truth."""
    if len(noise) != len(x_0):
        raise InvalidArgumentError(f"{len(x_0)} truths need as many keys, got {len(noise)}")
    check_data(x_0)
    x_t = schedule.marginal(x_0, x_0.new_full((len(x_0),), t), noise.fold(0).normal(*x_0.shape[1:]))
    return JointDraws(x_0, x_t, t, draw(posterior, x_t, t, count, noise.fold(1)))


def draw(
    posterior: Posterior, x_t: Float[Tensor, "n *d"], t: float, count: int, noise: Noise
) -> Float[Tensor, "K n *d"]:
    """``count`` draws for each x_t, in batches. Raises for draws of another shape and for NaN."""

    def checked(x: Tensor, times: Tensor, key: Noise, /) -> Tensor:
        return _checked(posterior(x, times, key), x)

    keys, n, times = noise.draws(count), len(x_t), x_t.new_full((len(x_t),), t)
    return torch.stack([chunked(checked)(x_t, times, keys[k * n : (k + 1) * n]) for k in range(count)])


def check_times(times: Sequence[float]) -> None:
    """Raise unless there are times, all in (0, 1]."""
    if not times or not all(0 < t <= 1 for t in times):
        raise InvalidArgumentError(f"times must be numbers in (0, 1], at least one, got {list(times)}")


def check_data(x_0: Float[Tensor, "n *d"]) -> None:
    """Raise for truths that are not finite."""
    if not bool(x_0.isfinite().all()):
        raise InvalidArgumentError("x_0 has values that are NaN or infinite")


def check_posterior(posterior: Posterior, x_t: Float[Tensor, "n *d"], t: float, noise: Noise) -> None:
    """Raise where two keys give the same draw, or one key gives two: such a sampler ignores its key.

    One state, twice in a batch, must give different draws; so must one batch under two keys. The same batch under
    the same keys must give the same draws, but for rounding.
    """
    x, rows, keys = x_t[:1].repeat(2, *[1] * (x_t.ndim - 1)), x_t.new_full((2,), t), noise[:2]
    first = _checked(posterior(x, rows, keys), x)
    second = _checked(posterior(x, rows, keys.fold(0)), x)
    if torch.equal(first[0], first[1]) or torch.equal(first, second):
        raise InvalidArgumentError(
            "two keys give identical draws: the sampler ignores its seed, or is a point estimate as DDPM's "
            "and Mean Flow's; draw from the given Noise, one key a row"
        )
    if not torch.allclose(posterior(x, rows, keys), first, rtol=ROUNDING, atol=ROUNDING * float(first.abs().max())):
        raise InvalidArgumentError(
            "one key gives different draws: the sampler ignores its seed; draw from the given Noise, one key a row, "
            "and not from a global generator"
        )


def _checked(draws: object, x_t: Tensor) -> Tensor:
    if not isinstance(draws, Tensor):
        raise InvalidArgumentError(f"the draws must be a torch.Tensor, got {type(draws).__name__}")
    if draws.shape != x_t.shape:
        raise InvalidArgumentError(f"the draws have shape {list(draws.shape)}, x_t has {list(x_t.shape)}")
    if not bool(draws.isfinite().all()):
        raise InvalidArgumentError("the sampler draws NaN or infinite values: there is nothing to certify")
    return draws
