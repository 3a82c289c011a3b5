"""The reverse SDE as a loop over a posterior and its bridge, and the times it visits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidArgumentError
from .noise import Key
from .schedule import Schedule

__all__ = ["MAX_STEPS", "Steps", "reverse_sde", "time_grid", "times_of_rows"]

Steps = int | Sequence[float] | None
"""Inference steps: a count N (uniform in t), a decreasing grid of times from 1 to 0, or None: the default."""

MAX_STEPS = 2**20  # times are float32, which tells no finer grid apart


def time_grid(steps: int | Sequence[float]) -> list[float]:
    """Times from 1 to 0: N uniform steps, or the given grid once checked."""
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        count = check_integer("inference_steps", steps, 1, MAX_STEPS)
        return [1 - k / count for k in range(count + 1)]
    try:
        grid = [float(t) for t in steps]
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"inference_steps must be a count or a grid of times, got {steps!r}") from error
    if len(grid) < 2 or grid[0] != 1.0 or grid[-1] != 0.0:
        raise InvalidArgumentError(f"a grid of times must begin with 1 and end with 0, got {grid}")
    if not all(t > s for t, s in pairwise(grid)):
        raise InvalidArgumentError(f"a grid of times must decrease strictly, got {grid}")
    return grid


def reverse_sde(
    posterior: Callable[[Tensor, Tensor, Key], Tensor],
    schedule: Schedule,
    times: Sequence[float],
    shape: tuple[int, ...],
    noise: Key,
) -> Iterator[tuple[float, Float[Tensor, "b *d"], Float[Tensor, "b *d"]]]:
    """The loop: x_1 ~ N(0, I); then x_0 ~ posterior(x_t, t) and x_s ~ bridge(x_0, x_t, t, s), step by step.

    Yields (s, x_s, x_0) after each step. At s = 0 the bridge is x_0 itself and takes no noise.
    """
    x_t = noise.fold(0).normal(*shape)
    grid = torch.stack([x_t.new_full((), t) for t in times])  # not a copy from the host, which no graph could capture
    toward_t, toward_0, spread = schedule.bridge_coefficients(grid[:-1], grid[1:])  # of all steps in one pass
    for k, (t, s) in enumerate(pairwise(times)):
        x_0 = posterior(x_t, x_t.new_full((x_t.shape[0],), t), noise.fold(2 * k + 1))
        epsilon = noise.fold(2 * k + 2).normal(*shape) if s > 0 else torch.zeros_like(x_t)
        x_t = toward_t[k] * x_t + toward_0[k] * x_0 + spread[k] * epsilon
        yield s, x_t, x_0


def times_of_rows(t: Any, n: int, device: torch.device) -> Tensor:
    """A number or a tensor [n] as float32 rows on the device."""
    try:
        rows = torch.as_tensor(t, dtype=torch.float32, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(f"times must be a number or a tensor of shape [{n}], got {t!r}") from error
    if rows.ndim > 1 or (rows.ndim == 1 and len(rows) != n):
        raise InvalidArgumentError(f"times must be a number or a tensor of shape [{n}], not {list(rows.shape)}")
    return rows.expand(n)
