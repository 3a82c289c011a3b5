"""Noise: an immutable key for everything that is random; and normals drawn before, in a key's place.

A key is (seed, sample indices, path). Drawing from it is pure: the same key gives the same numbers, whatever
was drawn before, in whatever batch, on whatever device (up to the rounding of its logarithm and cosine).
A sample's class label rides on its key, and so goes wherever its rows go.

The paths of one sampling run are fixed once for all: x_1 uses ``fold(0)``; step k uses ``fold(2k - 1)`` for
the posterior and ``fold(2k)`` for the bridge.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, TypeVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidArgumentError
from . import philox

__all__ = ["AbstractNoise", "GivenNoise", "Key", "Noise"]

SEEDS = 2**64
INDICES, DRAWS = 2**32, 2**31 - 1  # the lower word of an index counts samples, the upper word draws


class AbstractNoise(ABC):
    """What the loop over posterior and bridge asks of its noise: keys along a path, their normals and labels.

    ``labels`` are the classes of the rows, or ``UNLABELLED``; None where no row has one.
    """

    labels: Int[Tensor, " b"] | None

    @abstractmethod
    def fold(self: Key, i: int) -> Key:
        """The noise one level down the path: independent of this one and of every other ``i``."""

    @abstractmethod
    def normal(self, *shape: int) -> Float[Tensor, "b *d"]:
        """Standard normal numbers for each sample: [b, *shape], float32."""


Key = TypeVar("Key", bound=AbstractNoise)


@final
@dataclass(frozen=True, eq=False)
class GivenNoise(AbstractNoise):
    """The keys ``fold(0)`` to ``fold(keys - 1)`` of a run whose normals were drawn before: what a traced loop reads."""

    given: Float[Tensor, "keys b *d"]
    path: tuple[int, ...] = ()
    labels: Int[Tensor, " b"] | None = None

    def fold(self, i: int) -> GivenNoise:
        """The key of slot ``i``."""
        return replace(self, path=(*self.path, i))

    def normal(self, *shape: int) -> Float[Tensor, "b *d"]:
        """The normals of this key, which are given: their shape is not asked for."""
        (slot,) = self.path
        return self.given[slot]


@final
@dataclass(frozen=True, eq=False)
class Noise(AbstractNoise):
    """A key (seed, sample indices, path) and pure functions of it.

    ``Noise.of(0, 64)`` is the key of samples 0 to 63 of seed 0; row i of all that it draws depends on the
    seed, the path and index i alone. ``labels`` decide nothing that it draws.
    """

    seed: int
    indices: Int[Tensor, " b"]
    path: tuple[int, ...] = ()
    labels: Int[Tensor, " b"] | None = None

    @classmethod
    def of(cls, seed: int, n: int, *, first: int = 0, device: torch.device | str = "cpu") -> Noise:
        """The key of samples ``first`` to ``first + n - 1`` of ``seed`` (0 <= seed < 2**64)."""
        seed = check_integer("seed", seed, 0, SEEDS - 1)
        n = check_integer("n", n, 1, INDICES)
        first = check_integer("first", first, 0, INDICES - 1)
        if first + n > INDICES:
            raise InvalidArgumentError(f"samples {first} to {first + n - 1}: the last possible is {INDICES - 1}")
        return cls(seed, torch.arange(first, first + n, device=device))

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def key(self) -> int:
        """The path folded into the seed: one 64-bit key."""
        return reduce(philox.fold, self.path, self.seed)

    def fold(self, i: int) -> Noise:
        """The key one level down the path: independent of this one and of every other ``i``."""
        return replace(self, path=(*self.path, i))

    def draws(self, n: int) -> Noise:
        """``n`` independent keys of each sample, as rows [draw 0 of all samples, draw 1 of all, ...].

        Draw 0 is this key itself, so one draw of many is the draw made alone. Of a key that has draws already
        it makes draws of each: all rows differ again.
        """
        n = check_integer("n", n, 1, DRAWS)
        sample, earlier = self.indices % INDICES, self.indices // INDICES
        draw = earlier * n + torch.arange(n, device=self.indices.device)[:, None]
        labels = None if self.labels is None else self.labels.repeat(n)
        return replace(self, indices=(draw * INDICES + sample).flatten(), labels=labels)

    def __getitem__(self, rows: slice) -> Noise:
        """The key of some of the rows."""
        return replace(self, indices=self.indices[rows], labels=None if self.labels is None else self.labels[rows])

    def to(self, device: torch.device) -> Noise:
        """The same key on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, indices=self.indices.to(device), labels=labels)

    def labelled(self, labels: Int[Tensor, " b"]) -> Noise:
        """The same key, whose rows are of these classes: it draws the same numbers."""
        if labels.shape != self.indices.shape:
            raise InvalidArgumentError(f"{len(self)} rows need as many labels, not {list(labels.shape)}")
        return replace(self, labels=labels.to(self.indices))

    def words(self, count: int) -> Int[Tensor, "b count"]:
        """Uniform 32-bit words, as int64."""
        bits, _ = self._bits(count)
        return self._rows(bits, count)

    def uniform(self, *shape: int) -> Float[Tensor, "b *d"]:
        """Uniform numbers in (0, 1) for each sample: [b, *shape], float32."""
        bits, xp = self._bits(math.prod(shape))
        rows = self._rows(tuple(philox.uniforms(word, xp) for word in bits), math.prod(shape)).float()
        # 1 - 2**-33 would round up to 1.
        return rows.clamp(max=1.0 - 2.0**-24).reshape(len(self), *shape)

    def normal(self, *shape: int) -> Float[Tensor, "b *d"]:
        """Standard normal numbers for each sample: [b, *shape], float32."""
        bits, xp = self._bits(math.prod(shape))
        return self._rows(philox.normals(bits, xp), math.prod(shape)).float().reshape(len(self), *shape)

    def _bits(self, count: int) -> tuple[tuple[philox.Words, ...], Any]:
        """Four arrays of words [b, blocks] and their library: NumPy on the CPU, faster there, or PyTorch."""
        blocks = -(-count // 4)
        if self.indices.is_cuda:
            block = torch.arange(blocks, device=self.indices.device)
            return philox.words(self.key, self.indices[:, None], block[None]), torch
        return philox.words(self.key, self.indices.numpy()[:, None], np.arange(blocks)[None]), np

    @staticmethod
    def _rows(columns: tuple[philox.Words, ...], count: int) -> Tensor:
        """Interleave the four arrays into rows of ``count`` numbers."""
        if isinstance(columns[0], Tensor):
            return torch.stack(columns, dim=-1).flatten(1)[:, :count]
        # A call of NumPy's costs less than one of PyTorch's, which counts where a batch is one sample.
        return torch.from_numpy(np.stack(columns, axis=-1).reshape(len(columns[0]), -1)[:, :count])
