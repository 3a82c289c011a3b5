"""The whole run step by step: what is sampled, exported as a graph, and captured as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from ..diffusion.host_philox import ONCE
from ..diffusion.loop import reverse_sde
from ..diffusion.noise import Key, Noise
from ..models.spec import ModelSpec

__all__ = ["EagerRun", "whole_run"]


@final
@dataclass(frozen=True)
class EagerRun:
    """A run of a posterior, given as a function of M; ``advance`` is called after each inference step.

    A posterior with ``guides`` folds its key further. One without takes the normals of a small run on the CPU drawn in
    one pass: for one image that is a tenth of the run.
    """

    posterior: Callable[[int], Callable[[Tensor, Tensor, Any], Tensor]]
    spec: ModelSpec
    advance: Callable[[], None] = lambda: None
    guides: bool = False

    def __call__(self, noise: Noise, times: Sequence[float], mean_flow_steps: int, /) -> Float[Tensor, "b *decoded"]:
        """The decoded samples of ``noise``."""
        keys, shape = 2 * (len(times) - 1), self.spec.shape
        small = noise.indices.device.type == "cpu" and keys * len(noise) * math.prod(shape) <= ONCE
        key = noise.ahead(keys, *shape) if small and not self.guides else noise
        return whole_run(key, self.posterior(mean_flow_steps), self.spec, times, self.advance)


def whole_run(
    noise: Key,
    posterior: Callable[[Tensor, Tensor, Key], Tensor],
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
