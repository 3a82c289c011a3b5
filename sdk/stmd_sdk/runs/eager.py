"""The whole run step by step: what is sampled, exported as a graph, and captured as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from ..diffusion.loop import reverse_sde
from ..diffusion.noise import Key, Noise
from ..diffusion.posterior import Posterior
from ..models.spec import ModelSpec

__all__ = ["EagerRun", "whole_run"]


@final
@dataclass(frozen=True)
class EagerRun:
    """A run of a posterior, given as a function of M; ``advance`` is called after each inference step."""

    posterior: Callable[[int], Posterior]
    spec: ModelSpec
    advance: Callable[[], None] = lambda: None

    def __call__(self, noise: Noise, times: Sequence[float], mean_flow_steps: int, /) -> Float[Tensor, "b *decoded"]:
        """The decoded samples of ``noise``."""
        return whole_run(noise, self.posterior(mean_flow_steps), self.spec, times, self.advance)


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
