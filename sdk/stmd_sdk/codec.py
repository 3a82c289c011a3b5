"""Codecs: between what a user holds (images in [-1, 1], vectors) and what the network sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

__all__ = ["AbstractCodec", "Codec", "PixelCodec", "VectorCodec"]


class AbstractCodec(ABC):
    """An encoder and its decoder."""

    @property
    @abstractmethod
    def bound(self) -> float | None:
        """The largest absolute value that the network's data can have; None where there is no range."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """To what the network sees."""

    @abstractmethod
    def decode(self, x_0: Tensor) -> Tensor:
        """To what the user holds."""


@final
@dataclass(frozen=True)
class PixelCodec(AbstractCodec):
    """Images in [-1, 1], seen by the network as they are; decoding clamps to the range."""

    kind: Literal["pixels"] = "pixels"

    @property
    def bound(self) -> float | None:
        """1."""
        return 1.0

    def encode(self, x: Tensor) -> Tensor:
        """The images themselves."""
        return x

    def decode(self, x_0: Tensor) -> Tensor:
        """The images, clamped to [-1, 1]."""
        return x_0.clamp(-1.0, 1.0)


@final
@dataclass(frozen=True)
class VectorCodec(AbstractCodec):
    """Vectors without a range, seen by the network as they are."""

    kind: Literal["vector"] = "vector"

    @property
    def bound(self) -> float | None:
        """None."""
        return None

    def encode(self, x: Tensor) -> Tensor:
        """The vectors themselves."""
        return x

    def decode(self, x_0: Tensor) -> Tensor:
        """The vectors themselves."""
        return x_0


Codec = PixelCodec | VectorCodec
