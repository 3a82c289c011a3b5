"""PyTorch: eager, or through ``torch.compile``."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import DeviceError, first_line

__all__ = ["CompiledNetwork", "TorchNetwork", "compiler"]

COMPILERS = "g++", "clang++", "c++", "cl"


@final
class TorchNetwork:
    """A module as a network. The one border for casts: state and times are float32 outside, ``dtype`` inside."""

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.module = module.to(device=device, dtype=dtype)
        if device.type == "cuda":  # whose tensor cores want the channels last
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs lack it
        self.dtype = dtype

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate; with gradients only where x asks for them, as likelihood guidance does."""
        with torch.inference_mode(not x.requires_grad):
            return self.module(x.to(self.dtype), times).float()


@final
class CompiledNetwork:
    """A :class:`TorchNetwork` through ``torch.compile``, which works at the first call and the first of another batch.

    Raises :class:`DeviceError` where the machine lacks what compiling needs.
    """

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        compiler(device)
        module.compile()
        self.eager = TorchNetwork(module, device, dtype)

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate without gradients."""
        try:
            return self.eager(x, times)
        except Exception as error:  # the compiler's errors share no public base class
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                line = first_line(error)
                raise DeviceError(f"torch.compile fails here: {line}; load the model without compile=True") from error
            raise


def compiler(device: torch.device) -> str:
    """What torch.compile compiles with; its absence raises here, where PyTorch would at the first call, at length."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise DeviceError("compile=True needs Triton on CUDA: pip install triton, or leave compile out")
        return "triton"
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        if shutil.which(name) is not None:
            return name
    raise DeviceError("compile=True needs a C++ compiler on the CPU, as in: apt install g++; or leave compile out")
