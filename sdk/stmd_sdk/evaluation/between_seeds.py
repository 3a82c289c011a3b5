"""Whether the seed matters: how much samples differ from each other, beside how much data do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule
from ..errors import InvalidArgumentError
from .calibration import spread_skill
from .distances import centred, distance_blocks
from .joint import JointDraws, joint_draws
from .statistics import Estimate

__all__ = ["COPIES", "Variety", "spread_by_class", "variety"]

BY_CLASS = 1 << 17  # the path of its keys: those of certificates are the indices of their times

COPIES = 0.01
"""The share of data that count as near-copies of others: the same distance is what makes two samples copies."""


@final
@dataclass(frozen=True)
class Variety:
    """How much a new seed changes a sample; as many data points show 1 and about :data:`COPIES`.

    ``between_seeds``: mean distance of two samples over that of two data points, and its standard ``error``;
    ``near_copies``: share of samples that have another one nearer than all but :data:`COPIES` of the data have theirs.
    """

    between_seeds: float
    error: float
    near_copies: float

    def __str__(self) -> str:
        """In one sentence."""
        return (
            f"A new seed changes a sample by {self.between_seeds:.2f} ± {self.error:.2f} of what two held-out ones "
            f"differ; {self.near_copies:.1%} are near-copies of another sample, where {COPIES:.0%} is right."
        )


def variety(real: Float[Tensor, "n *d"], samples: Float[Tensor, "m *d"]) -> Variety:
    """Compare the distances among ``samples`` with those among ``real`` data, or among the features of both.

    Where there are classes, both have as many of each.
    """
    real, samples = centred(real, samples)
    n = len(real)
    if n < 4 or len(samples) != n:
        raise InvalidArgumentError(f"variety compares equally many samples, at least 4: got {n} and {len(samples)}")
    (apart, nearest), (real_apart, real_nearest) = _among(samples), _among(real)
    ratio = float(apart.mean() / real_apart.mean())
    # Each row is in a mean of its own and in those of all others: twice its share (Hoeffding, 1948).
    error = 2 * float((apart - ratio * real_apart).std() / real_apart.mean()) / n**0.5
    return Variety(ratio, error, float((nearest <= real_nearest.quantile(COPIES)).double().mean()))


def spread_by_class(
    posterior: Posterior,
    x_0: Float[Tensor, "n *d"],
    schedule: Schedule,
    classes: Mapping[str, Int[Tensor, " k"]],
    *,
    seed: int = 0,
    draws: int = 19,
) -> dict[str, Estimate]:
    """Spread over skill at t = 1 of each class's rows, where x_t shows next to nothing: 1 for draws as varied as data.

    Below it a class is drawn too much alike. ``posterior`` draws given the labels of its keys; a class of one row has
    no figure. Costs n × ``draws`` draws.
    """
    noise = Noise.of(seed, len(x_0)).fold(BY_CLASS)
    joint = joint_draws(posterior, schedule, x_0, 1.0, draws, noise)
    rows_of = {name: rows for name, rows in classes.items() if len(rows) > 1}
    return {
        name: spread_skill(JointDraws(joint.x_0[rows], joint.x_t[rows], 1.0, joint.draws[:, rows]))
        for name, rows in rows_of.items()
    }


def _among(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Of each row the mean distance to the others, and that to the nearest of them."""
    n, means, nearest = len(x), list[Tensor](), list[Tensor]()
    for rows, distance in distance_blocks(x, x):
        own = torch.arange(n)[rows]
        distance[torch.arange(len(own)), own] = 0
        means.append(distance.double().sum(dim=1) / (n - 1))
        distance[torch.arange(len(own)), own] = torch.inf
        nearest.append(distance.amin(dim=1).double())
    return torch.cat(means), torch.cat(nearest)
