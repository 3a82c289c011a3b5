"""The network of a sampler around a function that the user gave: it is in no file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ..errors import InvalidArgumentError

__all__ = ["GivenConfig"]


@dataclass(frozen=True)
class GivenConfig:
    """A function, of which nothing more is known."""

    kind: Literal["given"] = "given"

    def check_input(self, in_channels: int, size: tuple[int, ...]) -> None:
        """It takes what it takes."""

    def build(self, in_channels: int, out_channels: int, times: int, size: tuple[int, ...], classes: int) -> nn.Module:
        """Raise: there is nothing to build."""
        raise InvalidArgumentError(
            "a denoiser given as a function is in no file, and none can be built or exported of it"
        )

    def tiny(self) -> GivenConfig:
        """Itself."""
        return self
