"""The seam of whole runs: from keys to decoded samples, whatever runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise

__all__ = ["Run"]


@runtime_checkable  # for the checks of annotations in the tests
class Run(Protocol):
    """A whole run: step by step, recorded as a graph, or inside an exported file."""

    def __call__(self, noise: Noise, times: Sequence[float], mean_flow_steps: int, /) -> Float[Tensor, "b *decoded"]:
        """The decoded samples of ``noise``: the loop over ``times`` with M evaluations a step, then the decoder."""
        ...
