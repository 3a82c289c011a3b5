"""Whole samplers as modules: the SDK's loops with their noise read from an input."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stmd_sdk.diffusion.network import Network
from stmd_sdk.diffusion.noise import GivenNoise
from stmd_sdk.diffusion.posterior import bounded
from stmd_sdk.inference.coupling import LinearCoupling
from stmd_sdk.inference.gibbs import annealed_gibbs, annealed_paths
from stmd_sdk.models.artefact import Artefact
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.operators import Mask
from stmd_sdk.operators.solve import SpectralDeflation
from stmd_sdk.runs.eager import whole_run

__all__ = ["PLACEHOLDER", "RestoringModule", "WholeModule"]

PLACEHOLDER = "stmd::Network"


def _placeholder(spec: ModelSpec) -> Network:
    """A node that stands for the network."""

    def network(x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        shape = (x.shape[0], *spec.shape)
        return torch.onnx.ops.symbolic(PLACEHOLDER, (x, times), dtype=x.dtype, shape=shape, version=1)

    return network


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
        self.posterior = spec.build_posterior(_placeholder(spec), mean_flow_steps, guidance)

    def forward(
        self, noise: Float[Tensor, "keys b *d"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b *decoded"]:
        """Run the loop and decode."""
        if self.label is not None:
            labels = noise.new_full((noise.shape[1],), self.label, dtype=torch.int64)
        return whole_run(GivenNoise(noise, labels=labels), self.posterior, self.spec, self.times)


@final
class RestoringModule(nn.Module):
    """noise [2 + 4L, b, ...], mask, y [1, ...] → draws [b, ...] of p(x | y) by split Gibbs sampling at L couplings.

    ``noise`` has the normals of :func:`annealed_paths` in their order, ``mask`` is 1 where y is measured. Classes as in
    :class:`WholeModule`.
    """

    def __init__(self, spec: ModelSpec, artefact: Artefact) -> None:
        super().__init__()
        self.spec = spec
        self.artefact = artefact
        posterior = spec.build_posterior(_placeholder(spec), artefact.mean_flow_steps)
        bound = spec.codec.bound
        self.posterior = posterior if bound is None else bounded(posterior, bound)

    def forward(
        self,
        noise: Float[Tensor, "keys b *d"],
        mask: Float[Tensor, "*m"],
        y: Float[Tensor, "1 *d"],
        labels: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b *d"]:
        """Run the moves and decode."""
        rows, levels, sigma = noise.shape[1], self.artefact.couplings, self.artefact.sigma
        if self.artefact.label is not None:
            labels = noise.new_full((rows,), self.artefact.label, dtype=torch.int64)
        operator = Mask(mask)
        coupling = LinearCoupling(operator, y, SpectralDeflation(operator.spectrum(y), 1.0, sigma), levels[-1])
        key = GivenNoise(noise, labels=labels, paths=annealed_paths(len(levels)))
        x_0 = noise.new_zeros(rows, *self.spec.shape)
        *_, last = annealed_gibbs(self.posterior, self.spec.schedule, coupling, levels, x_0, key)
        return self.spec.codec.decode(last.x_0)
