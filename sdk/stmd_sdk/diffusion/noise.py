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
from typing import TypeVar, cast, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidArgumentError
from . import device_philox, philox
from .host_philox import host_normals

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
    """Normals of a run that were drawn before, of the keys at ``paths`` in this order: what a traced loop reads.

    Where none are named they are ``fold(0)`` to ``fold(keys - 1)``.
    """

    given: Float[Tensor, "keys b *d"]
    path: tuple[int, ...] = ()
    labels: Int[Tensor, " b"] | None = None
    paths: tuple[tuple[int, ...], ...] = ()

    def fold(self, i: int) -> GivenNoise:
        """The key of slot ``i``."""
        return GivenNoise(self.given, (*self.path, i), self.labels, self.paths)

    def normal(self, *shape: int) -> Float[Tensor, "b *d"]:
        """The normals of this key, which are given: their shape is not asked for."""
        if self.paths:
            return self.given[self.paths.index(self.path)]
        (slot,) = self.path
        return self.given[slot]


@final
@dataclass(frozen=True, eq=False)
class Noise(AbstractNoise):
    """A key (seed, sample indices, path) and pure functions of it.

    ``Noise.of(0, 64)`` is the key of samples 0 to 63 of seed 0; row i of all that it draws depends on the
    seed, the path and index i alone. ``labels`` decide nothing that it draws. The seed of a graph that is captured is
    a number on its device, 64 bits as int64: each replay draws another's.
    """

    seed: int | Int[Tensor, ""]
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
    def key(self) -> int | Int[Tensor, ""]:
        """The path folded into the seed: one 64-bit key."""
        if isinstance(self.seed, Tensor):
            return reduce(device_philox.fold_key, self.path, self.seed)
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
        """Uniform 32-bit words, as int64, of a key on the CPU."""
        return self._rows(self._bits(count), count)

    def uniform(self, *shape: int) -> Float[Tensor, "b *d"]:
        """Uniform numbers in (0, 1) for each sample: [b, *shape], float32."""
        count = math.prod(shape)
        if self._on_device:
            rows = device_philox.device_uniforms(
                device_philox.key_of(self.key, self.indices.device), self.indices, count
            )
        else:
            rows = self._rows(tuple(philox.uniforms(word, np) for word in self._bits(count)), count)
        # 1 - 2**-33 would round up to 1.
        return rows.float().clamp(max=1.0 - 2.0**-24).reshape(len(self), *shape)

    def normal(self, *shape: int) -> Float[Tensor, "b *d"]:
        """Standard normal numbers for each sample: [b, *shape], float32."""
        count = math.prod(shape)
        if self._on_device:
            rows = device_philox.device_normals(
                device_philox.key_of(self.key, self.indices.device), self.indices, count
            )
        else:
            rows = torch.from_numpy(host_normals([cast(int, self.key)], self.indices.numpy(), count)[0])
        return rows.float().reshape(len(self), *shape)

    def ahead(self, keys: int, *shape: int) -> GivenNoise:
        """The normals of ``fold(0)`` to ``fold(keys - 1)`` of a key on the CPU, drawn in one pass: the same bits."""
        folded = [philox.fold(self.key, i) for i in range(keys)]
        rows = torch.from_numpy(host_normals(folded, self.indices.numpy(), math.prod(shape)))
        return GivenNoise(rows.reshape(keys, len(self), *shape), labels=self.labels)

    @property
    def _on_device(self) -> bool:
        """Whether PyTorch draws; NumPy is faster on the CPU, above all where a batch is one sample."""
        return isinstance(self.seed, Tensor) or self.indices.device.type != "cpu"

    def _bits(self, count: int) -> tuple[philox.Words, ...]:
        """Four arrays of words [b, blocks]."""
        return philox.words(self.key, self.indices.numpy()[:, None], np.arange(-(-count // 4))[None])

    @staticmethod
    def _rows(columns: tuple[philox.Words, ...], count: int) -> Tensor:
        """Interleave the four arrays into rows of ``count`` numbers."""
        return torch.from_numpy(np.stack(columns, axis=-1).reshape(len(columns[0]), -1)[:, :count])
