"""The whole sampler as a module: the SDK's loop with its noise read from an input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stmd_sdk.loop import reverse_sde
from stmd_sdk.noise import Noise
from stmd_sdk.spec import ModelSpec

__all__ = ["PLACEHOLDER", "GivenNoise", "WholeModule"]

PLACEHOLDER = "stmd::Network"


@final
@dataclass(frozen=True, eq=False)
class GivenNoise(Noise):
    """The keys ``fold(0)`` to ``fold(2N - 1)`` of a run, with normals that were drawn before.

    It overrides what :class:`Noise` draws, so that the loop which is traced is the SDK's own.
    """

    given: Float[Tensor, "keys b *d"] = field(default_factory=lambda: torch.empty(0, 0))

    def normal(self, *shape: int) -> Float[Tensor, "b *d"]:
        """The normals of this key."""
        (slot,) = self.path
        return self.given[slot]


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
        keys = GivenNoise(0, torch.arange(1), given=noise)
        *_, (_, x_0, _) = reverse_sde(self.posterior, self.spec.schedule, self.times, self.spec.shape, keys)
        return self.spec.codec.decode(x_0)
