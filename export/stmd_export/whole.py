"""The whole sampler as a module: the SDK's loop with its noise read from an input."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stmd_sdk.diffusion.noise import GivenNoise
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.runs.eager import whole_run

__all__ = ["PLACEHOLDER", "WholeModule"]

PLACEHOLDER = "stmd::Network"


@final
class WholeModule(nn.Module):
    """noise [2N, b, ...] → samples [b, ...], with a placeholder where the network is called.

    Of one class where there is a ``label``; where labels [b] are given too, of those, all classes together at -1.
    """

    def __init__(
        self,
        spec: ModelSpec,
        times: tuple[float, ...],
        mean_flow_steps: int,
        label: int | None = None,
        guidance: float = 1.0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.times = times
        self.label = label
        self.posterior = spec.build_posterior(self._network, mean_flow_steps, guidance)

    def _network(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        shape = (x.shape[0], *self.spec.shape)
        return torch.onnx.ops.symbolic(PLACEHOLDER, (x, times), dtype=x.dtype, shape=shape, version=1)

    def forward(
        self, noise: Float[Tensor, "keys b *d"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b *decoded"]:
        """Run the loop and decode."""
        if self.label is not None:
            labels = noise.new_full((noise.shape[1],), self.label, dtype=torch.int64)
        return whole_run(GivenNoise(noise, labels=labels), self.posterior, self.spec, self.times)
