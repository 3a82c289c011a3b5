"""The whole of a run as one function of its noise: what is sampled, exported as a graph, and captured as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion import philox
from ..diffusion.loop import reverse_sde
from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..models.spec import ModelSpec

__all__ = ["GivenNoise", "normals", "whole_run"]

KEYS = 16  # keys whose random words are in memory at once


@final
@dataclass(frozen=True, eq=False)
class GivenNoise(Noise):
    """The keys ``fold(0)`` to ``fold(2N - 1)`` of a run, with normals that were drawn before.

    It overrides what :class:`Noise` draws, so that the loop which is traced is the SDK's own.
    """

    given: Float[Tensor, "keys rows *d"] = field(default_factory=lambda: torch.empty(0, 0))

    @classmethod
    def holding(cls, given: Float[Tensor, "keys b *d"]) -> GivenNoise:
        """The noise of a run whose normals are ``given``."""
        # Its indices are never read; as many as rows would freeze the batch of an exported graph.
        return cls(0, torch.arange(1, device=given.device), given=given)

    def normal(self, *shape: int) -> Float[Tensor, "b *d"]:
        """The normals of this key."""
        (slot,) = self.path
        return self.given[slot]


def whole_run(
    noise: Noise,
    posterior: Posterior,
    spec: ModelSpec,
    times: Sequence[float],
    advance: Callable[[], None] = lambda: None,
) -> Float[Tensor, "b *decoded"]:
    """Decoded samples of ``noise``: the loop over ``times``, then the decoder. ``advance`` is called after each step.

    Its own operations never wait for the device.
    """
    for s, x_s, _ in reverse_sde(posterior, spec.schedule, times, spec.shape, noise):
        advance()
        if s == 0:
            return spec.codec.decode(x_s)
    raise AssertionError("a grid of times ends with 0")


def normals(
    keys: Int[Tensor, " keys"], indices: Int[Tensor, " b"], shape: tuple[int, ...]
) -> Float[Tensor, "keys b *d"]:
    """What :meth:`Noise.normal` draws of each key (64 bits, as int64) for the sample indices, float32.

    Keys are numbers on the device, not in the program: a captured graph draws another run's noise with them.
    """
    count = math.prod(shape)
    blocks = torch.arange(-(-count // 4), device=indices.device)
    parts: list[Tensor] = []
    for some in keys.split(KEYS):
        bits = philox.words(some[:, None, None], indices[:, None], blocks[None])
        parts.append(torch.stack(philox.normals(bits, torch), dim=-1).flatten(2)[..., :count].float())
    return torch.cat(parts).reshape(len(keys), len(indices), *shape)
