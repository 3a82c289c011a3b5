"""What many draws of a posterior say together: mean, deviation, quantiles, credible intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InvalidArgumentError

__all__ = ["PosteriorSummary", "posterior_summary"]


@final
@dataclass(frozen=True, eq=False)
class PosteriorSummary:
    """Maps of the shape of one draw; [low, high] is the central credible interval of probability ``level``."""

    mean: Float[Tensor, "*d"]
    deviation: Float[Tensor, "*d"]
    low: Float[Tensor, "*d"]
    median: Float[Tensor, "*d"]
    high: Float[Tensor, "*d"]
    level: float
    draws: int

    def covers(self, truth: Float[Tensor, "*d"]) -> Bool[Tensor, "*d"]:
        """Where the truth lies in the interval, ends included."""
        return (self.low <= truth) & (truth <= self.high)


def posterior_summary(
    draws: Float[Tensor, "n *d"],
    *,
    level: float = 0.9,
    log_weights: Float[Tensor, " n"] | None = None,
    statistic: Callable[[Tensor], Tensor] | None = None,
) -> PosteriorSummary:
    """Summarise draws of one posterior, pixel by pixel or of ``statistic`` (draws [n, *d] → values [n, *q]).

    The i-th smallest of n draws stands for the quantile i / (n + 1), so that of 19 exact draws the 90 % interval,
    from the smallest to the largest, covers with probability 0.9. ``log_weights`` are those of steering.
    """
    values = draws if statistic is None else statistic(draws)
    n = len(draws)
    if len(values) != n or n < 2:
        raise InvalidArgumentError(f"a summary takes at least 2 draws and one value a draw, got {n} and {len(values)}")
    if not 0 < level < 1:
        raise InvalidArgumentError(f"level must lie between 0 and 1, got {level}")
    if not bool(values.isfinite().all()):
        raise InvalidArgumentError("the draws have values that are not finite")
    weights = _weights(log_weights, values)
    mean = torch.einsum("n,n...->...", weights, values)
    spread = torch.einsum("n,n...->...", weights, (values - mean).square())
    # n / (n - 1) for equal weights; without bias for others too, if they do not depend on the values.
    deviation = (spread / (1 - weights.square().sum()).clamp(min=1e-6)).sqrt()
    low, median, high = _quantiles(values, weights, ((1 - level) / 2, 0.5, (1 + level) / 2))
    return PosteriorSummary(mean, deviation, low, median, high, level, n)


def _weights(log_weights: Tensor | None, values: Tensor) -> Tensor:
    if log_weights is None:
        return values.new_full((len(values),), 1 / len(values))
    if log_weights.shape != (len(values),):
        raise InvalidArgumentError(f"log_weights must have shape [{len(values)}], got {list(log_weights.shape)}")
    return log_weights.to(values).softmax(dim=0)


def _quantiles(values: Tensor, weights: Tensor, probabilities: tuple[float, ...]) -> list[Tensor]:
    """Weighted quantiles between order statistics; the i-th of n equally weighted draws stands at i / (n + 1)."""
    n = len(values)
    ordered, rows = values.sort(dim=0)
    position = weights[rows].cumsum(dim=0) * (n / (n + 1))
    found: list[Tensor] = []
    for p in probabilities:
        upper = (position < p).sum(dim=0, keepdim=True).clamp(max=n - 1)
        lower = (upper - 1).clamp(min=0)
        begin, end = position.gather(0, lower), position.gather(0, upper)
        share = ((p - begin) / (end - begin).clamp(min=1e-12)).clamp(0, 1)
        found.append(torch.lerp(ordered.gather(0, lower), ordered.gather(0, upper), share)[0])
    return found
