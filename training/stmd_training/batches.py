"""Which data each step sees: a pure function of (seed, step), so that a run resumes without remembering anything."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stmd_sdk.data.arrays import ArrayData, ShardedData, WeightedData
from stmd_sdk.diffusion.classes import UNLABELLED
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.mixtures.law import GaussianMixture

__all__ = ["ArrayBatches", "Batches", "DrawnBatches", "TrainingData", "batches_of", "resident"]

TrainingData = ArrayData | ShardedData | GaussianMixture | WeightedData

# First level of the path: what a training key is for.
DATA, LOSS, ORDER, POOL, FIT, LABELS = 0, 1, 2, 3, 4, 5


@runtime_checkable
class Batches(Protocol):
    """The clean batch of each step, and its labels."""

    def __call__(self, step: int, /) -> Float[Tensor, "b *d"]:
        """x_0 of step ``step``, the first being 0."""
        ...

    def labels(self, step: int, /) -> Int[Tensor, " b"] | None:
        """The classes of step ``step``'s rows; None of data that have none."""
        ...


@final
@dataclass
class ArrayBatches:
    """Epochs of a finite data set, each in an order of its own; batches run on across epochs.

    An ``unlabelled_share`` of the rows has its labels hidden.
    """

    data: ArrayData | ShardedData
    batch_size: int
    seed: int
    unlabelled_share: float = 0.0
    _order: tuple[int, Int[Tensor, " n"]] | None = field(default=None, init=False)

    def __call__(self, step: int, /) -> Float[Tensor, "b *d"]:
        """x_0 of step ``step``."""
        return self.data[self.rows(step)]

    def labels(self, step: int, /) -> Int[Tensor, " b"] | None:
        """The classes of step ``step``'s rows, or ``UNLABELLED``."""
        if self.data.labels is None:
            return None
        hidden = Noise.of(self.seed, self.batch_size).fold(LABELS).fold(step).uniform() < self.unlabelled_share
        return torch.where(hidden, UNLABELLED, self.data.labels[self.rows(step)])

    def rows(self, step: int) -> Int[Tensor, " b"]:
        """Which samples step ``step`` sees."""
        first, end, n = step * self.batch_size, (step + 1) * self.batch_size, len(self.data)
        epochs = range(first // n, (end - 1) // n + 1)
        return torch.cat([self._permutation(epoch)[max(first - epoch * n, 0) : end - epoch * n] for epoch in epochs])

    def _permutation(self, epoch: int) -> Int[Tensor, " n"]:
        if self._order is None or self._order[0] != epoch:
            words = Noise.of(self.seed, len(self.data)).fold(ORDER).fold(epoch).words(2)
            self._order = epoch, (words[:, 0] << 31 | words[:, 1] >> 1).argsort(stable=True)
        return self._order[1]


@final
@dataclass(frozen=True)
class DrawnBatches:
    """Fresh draws of a law: a mixture, or weighted samples."""

    law: GaussianMixture | WeightedData
    batch_size: int
    seed: int

    def __call__(self, step: int, /) -> Float[Tensor, "b *d"]:
        """x_0 of step ``step``."""
        return self.law.sample(Noise.of(self.seed, self.batch_size).fold(DATA).fold(step))

    def labels(self, step: int, /) -> None:
        """A law has no classes."""


def batches_of(data: TrainingData, batch_size: int, seed: int, unlabelled_share: float = 0.0) -> Batches:
    """The batches of a data set, an ``unlabelled_share`` of whose rows have their labels hidden, if there are any."""
    if isinstance(data, GaussianMixture | WeightedData):
        return DrawnBatches(data, batch_size, seed)
    return ArrayBatches(data, batch_size, seed, unlabelled_share)


def resident(data: TrainingData, device: torch.device) -> TrainingData:
    """The data on a GPU, if they are one array that takes at most a quarter of what is free there."""
    if device.type != "cuda" or not isinstance(data, ArrayData):
        return data
    free, _ = torch.cuda.mem_get_info(device)
    return replace(data, array=data.array.to(device)) if data.array.nbytes <= free // 4 else data
