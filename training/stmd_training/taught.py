"""What the flow loss regresses u to in the place of v = ε - y: a teacher's velocity, guidance, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.schedule import expand
from stmd_sdk.diffusion.velocity import Velocity

__all__ = ["Guided", "Taught", "guidance_of", "guided_rows"]


def guided_rows(batch: int, moving: int) -> slice:
    """Which rows draw a w: half of the ``moving`` first ones and half of the others. So shapes stay static."""
    return slice(moving // 2, moving // 2 + batch // 2)


def guidance_of(classes: Classes | None, noise: Noise, rows: slice) -> Float[Tensor, " b"] | None:
    """w of each row: uniform from 1 to the most that the network takes in ``rows``, 1 in others and without a label.

    None where the network has no guidance inside.
    """
    if classes is None or classes.guided == 1 or noise.labels is None:
        return None
    w = torch.ones(len(noise), device=noise.labels.device)
    w[rows] += (classes.guided - 1) * noise.uniform()[rows]
    return torch.where(noise.labels < 0, 1.0, w)


@final
@dataclass(frozen=True, eq=False)
class Guided:
    """The ``w`` of some ``rows``, and the velocity of the network without labels."""

    rows: slice
    w: Float[Tensor, " g"]
    unlabelled: Velocity


@final
@dataclass(frozen=True, eq=False)
class Taught:
    """``exact`` is E[v | z_τ, x_t] of a teacher, which takes v's place: the losses' minimiser stays.

    In ``guided`` rows it is then w v + (1 - w) u(z_τ, τ, τ), u that of the network itself without a label: guidance
    inside, as Mean Flow has it (Geng et al., 2025, arXiv 2505.13447), for every w (arXiv 2512.02012). In float32 and
    without a graph.
    """

    exact: Velocity | None = None
    guided: Guided | None = None

    def __call__(self, v: Tensor, z: Tensor, r: Tensor, tau: Tensor, x_t: Tensor, t: Tensor) -> Float[Tensor, "b *d"]:
        """What u is regressed to at (z_τ, x_t), [b, *d], given v."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            if self.exact is not None:
                v = self.exact(z, r, tau, x_t, t)
            if self.guided is None:
                return v
            rows, found = self.guided.rows, v.clone()
            z, tau, x_t, t = (part[rows] for part in (z, tau, x_t, t))
            w = expand(self.guided.w, z)
            found[rows] = w * v[rows] + (1 - w) * self.guided.unlabelled(z, tau, tau, x_t, t)
            return found
