"""The whole sampler as a module: the SDK's loop with its noise read from an input."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stmd_sdk.diffusion.noise import GivenNoise
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.runs.eager import whole_run

__all__ = ["PLACEHOLDER", "WholeModule"]

PLACEHOLDER = "stmd::Network"


@final
class WholeModule(nn.Module):
    """noise [2N, b, ...] → samples [b, ...], with a placeholder where the network is called."""

    def __init__(self, spec: ModelSpec, times: tuple[float, ...], mean_flow_steps: int) -> None:
        super().__init__()
        self.spec = spec
        self.times = times
        self.posterior = spec.build_posterior(self._network, mean_flow_steps)

    def _network(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        shape = (x.shape[0], *self.spec.shape)
        return torch.onnx.ops.symbolic(PLACEHOLDER, (x, times), dtype=x.dtype, shape=shape, version=1)

    def forward(self, noise: Float[Tensor, "keys b *d"]) -> Float[Tensor, "b *decoded"]:
        """Run the loop and decode."""
        return whole_run(GivenNoise(noise), self.posterior, self.spec, self.times)
