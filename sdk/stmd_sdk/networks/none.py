"""No network: an output of zeros, for models that a fit to the data makes without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InvalidArgumentError

__all__ = ["NoNetwork", "NoNetworkConfig"]


@dataclass(frozen=True)
class NoNetworkConfig:
    """No network. Of target ``mixture`` with output ``correction``: the fitted mixture's own posterior, exactly."""

    kind: Literal["none"] = "none"

    def check_input(self, in_channels: int, size: tuple[int, ...]) -> None:
        """It looks at nothing."""

    def build(self, in_channels: int, out_channels: int, times: int, size: tuple[int, ...], classes: int) -> nn.Module:
        """The zeros; raises for classes, which nothing would hear of."""
        if classes:
            raise InvalidArgumentError("network: 'none' takes no labels, and the model has classes")
        return NoNetwork(out_channels)

    def tiny(self) -> NoNetworkConfig:
        """Itself."""
        return self


class NoNetwork(nn.Module):
    """Packed inputs [b, c_in, *d] and times [b, k] to zeros [b, out_channels, *d]."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    def forward(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"]) -> Float[Tensor, "b c *d"]:
        """Zeros."""
        return torch.zeros_like(x[:, : self.out_channels])
