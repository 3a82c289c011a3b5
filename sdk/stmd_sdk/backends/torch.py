"""PyTorch, eager."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["TorchNetwork"]


@final
class TorchNetwork:
    """A module as a network. The one border for casts: state and times are float32 outside, ``dtype`` inside."""

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.module = module.to(device=device, dtype=dtype)
        self.dtype = dtype

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate; with gradients only where x asks for them, as likelihood guidance does."""
        with torch.inference_mode(not x.requires_grad):
            return self.module(x.to(self.dtype), times).float()
