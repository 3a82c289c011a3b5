"""The seam between what clients see and what draws: one process in the tests, Ray's replicas in service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from .batching import Bucket

__all__ = ["Engine", "Progress", "Restoration", "Restored"]


@final
@dataclass(frozen=True, eq=False)
class Restoration:
    """A picture to restore: its pixels ``y`` in [-1, 1], and what became of it.

    ``operator`` is a name as in ``stmd restore``; of ``mask`` the mask is beside it, [1, h, w], 1 where pixels show.
    """

    model: str
    operator: str
    mask: NDArray[np.float32] | None
    y: Float32[np.ndarray, "1 c h w"]
    sigma: float
    draws: int
    levels: int
    seed: int


@final
@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` levels."""

    done: int
    total: int


@final
@dataclass(frozen=True, eq=False)
class Restored:
    """Draws of what the picture may have been, in [-1, 1], and for how many network evaluations each."""

    draws: Float32[np.ndarray, "n c h w"]
    evaluations: str


@runtime_checkable  # for the checks of annotations in the tests
class Engine(Protocol):
    """What draws. All three are pure functions of what they are given: who gets no answer may ask again."""

    async def draw(self, bucket: Bucket, /) -> NDArray[np.float32]:
        """The 16 decoded samples of a bucket."""
        ...

    def restore(self, work: Restoration, /) -> AsyncIterator[Progress | Restored]:
        """The levels as they are done, and the draws at last; closing it ends the work."""
        ...

    async def ready(self) -> bool:
        """Whether a request would be answered now."""
        ...
