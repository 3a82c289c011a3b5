"""Finite data sets: samples by index, or by weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import final

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ..codecs.codec import Codec
from ..diffusion.noise import Noise
from ..models.tensors import digest_of

__all__ = ["ArrayData", "ShardedData", "WeightedData"]

CHUNK = 4096  # rows turned into floats at once


@final
@dataclass(frozen=True, eq=False)
class ArrayData:
    """A data set in memory: 8-bit images [n, c, h, w], or floats [n, ...] as the network sees them.

    ``labels`` are the samples' classes, from 0 on, and ``class_names`` what these are called, where that is known.
    """

    name: str
    array: UInt8[Tensor, "n c h w"] | Float[Tensor, "n *d"]
    codec: Codec
    labels: Int[Tensor, " n"] | None = None
    class_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, channels first."""
        return tuple(self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b *d"]:
        """The samples at ``indices``, float32; 8-bit values x become x / 127.5 - 1."""
        rows = self.array[indices.to(self.array.device, non_blocking=True)]
        return rows.float() / 127.5 - 1 if rows.dtype == torch.uint8 else rows.float()

    def digest(self) -> str:
        """The SHA-256 of all samples."""
        return digest_of({"samples": self.array})

    def equals(self, other: ArrayData) -> bool:
        """Whether both hold the same samples in the same order: two splits of a set that has none do."""
        return self.array.shape == other.array.shape and torch.equal(self.array, other.array)

    def some(self, n: int, seed: int) -> Float[Tensor, "n *d"]:
        """``n`` different samples in random order, or all if there are fewer."""
        return self[self.some_rows(n, seed)]

    def some_rows(self, n: int, seed: int) -> Int[Tensor, " n"]:
        """Which samples :meth:`some` gives."""
        return Noise.of(seed, len(self)).uniform().argsort()[:n]

    def root_mean_square(self) -> float:
        """The root mean square about zero over all samples and coordinates: σ_d."""
        chunks = torch.arange(len(self)).split(CHUNK)
        total = sum(float(self[chunk].double().square().sum()) for chunk in chunks)
        return math.sqrt(total / self.array.numel())


@final
@dataclass(frozen=True, eq=False)
class ShardedData:
    """A data set in several files, one after the other; memory-mapped, so that only rows in use take memory."""

    name: str
    shards: tuple[ArrayData, ...]

    @property
    def codec(self) -> Codec:
        """What made the samples."""
        return self.shards[0].codec

    @cached_property
    def labels(self) -> Int[Tensor, " n"] | None:
        """The samples' classes, where all shards have them."""
        found = [shard.labels for shard in self.shards if shard.labels is not None]
        return torch.cat(found) if len(found) == len(self.shards) else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called, where that is known."""
        return self.shards[0].class_names

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, channels first."""
        return self.shards[0].shape

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def __getitem__(self, indices: Int[Tensor, " b"]) -> Float[Tensor, "b *d"]:
        """The samples at ``indices``, float32."""
        rows = torch.empty(len(indices), *self.shape)
        for shard, end in zip(self.shards, accumulate(map(len, self.shards)), strict=True):
            here = (indices < end) & (indices >= end - len(shard))
            rows[here] = shard[indices[here] - (end - len(shard))]
        return rows

    def digest(self) -> str:
        """The SHA-256 of all samples."""
        return digest_of({str(i): shard.array for i, shard in enumerate(self.shards)})

    def root_mean_square(self) -> float:
        """The root mean square about zero over all samples and coordinates: σ_d."""
        total = sum(len(shard) * shard.root_mean_square() ** 2 for shard in self.shards)
        return math.sqrt(total / len(self))


@final
@dataclass(frozen=True, eq=False)
class WeightedData:
    """A law known by samples and their importance weights exp(log_weights); -inf forbids a sample."""

    samples: ArrayData
    log_weights: Float[Tensor, " n"]

    @property
    def name(self) -> str:
        """The samples' name."""
        return self.samples.name

    @property
    def codec(self) -> Codec:
        """What made the samples."""
        return self.samples.codec

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, channels first."""
        return self.samples.shape

    def sample(self, noise: Noise) -> Float[Tensor, "b *d"]:
        """One sample a key, with replacement: the one in whose share of the total weight a uniform falls."""
        levels = noise.uniform().to(self._cumulative) * self._cumulative[-1]
        return self.samples[torch.searchsorted(self._cumulative, levels)]

    def root_mean_square(self) -> float:
        """The weighted root mean square about zero over all coordinates."""
        weights, total = self.log_weights.double().softmax(dim=0), 0.0
        for chunk in torch.arange(len(self.samples)).split(CHUNK):
            squares = self.samples[chunk].double().square().flatten(1).mean(dim=1)
            total += float(weights[chunk] @ squares)
        return math.sqrt(total)

    @cached_property
    def _cumulative(self) -> Float[Tensor, " n"]:
        return self.log_weights.double().softmax(dim=0).cumsum(dim=0)
