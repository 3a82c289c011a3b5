"""A denoiser that the user gives as a function, tried once and taken as a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..codecs.codec import Codec, PixelCodec, VectorCodec
from ..diffusion.denoiser import Denoiser
from ..diffusion.noise import Noise
from ..diffusion.schedule import expand
from ..errors import InvalidArgumentError
from ..models.objective import Pretrained
from ..models.spec import ModelSpec
from ..networks import GivenConfig

__all__ = ["GivenDenoiser", "given_denoiser"]

ROWS, LEVELS = 2, (0.5, 5.0)  # in multiples of the data's scale


@final
@dataclass(frozen=True)
class GivenDenoiser:
    """The network of a denoiser: (x; σ) to E[x_0 | x_0 + σ n = x]."""

    denoise: Denoiser

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Ask the denoiser."""
        found: Any = self.denoise(x, times[:, 0])
        if not isinstance(found, Tensor):
            raise InvalidArgumentError(f"denoise must return a torch.Tensor, got a {type(found).__name__}")
        if found.shape != x.shape:
            raise InvalidArgumentError(f"denoise: returned {list(found.shape)} for x of shape {list(x.shape)}")
        return found.to(x)


def given_denoiser(
    denoise: Denoiser, shape: tuple[int, ...], codec: Codec | None, sigma_data: float, device: torch.device
) -> tuple[GivenDenoiser, ModelSpec]:
    """The network and the spec of a denoiser, once it was tried. See ``Sampler.from_denoiser``."""
    if not callable(denoise):
        raise InvalidArgumentError(f"denoise must be a function of (x, sigma), got a {type(denoise).__name__}")
    if codec is None:
        codec = PixelCodec() if len(shape) == 3 else VectorCodec()
    spec = ModelSpec("denoiser", Pretrained(), shape, GivenConfig(), codec, sigma_data=sigma_data)
    network = GivenDenoiser(denoise)
    x = Noise.of(0, ROWS, device=device).normal(*shape)
    found: list[Tensor] = []
    for level in LEVELS:
        sigma = torch.full((ROWS,), level * sigma_data, device=device)
        with torch.no_grad():
            x_0 = network(expand((sigma.square() + sigma_data**2).sqrt(), x) * x, sigma[:, None])
            again = network(sigma_data * x, sigma[:, None])
        if not bool((x_0.isfinite() & again.isfinite()).all()):
            raise InvalidArgumentError(
                f"denoise: returned values that are not finite at sigma = {level * sigma_data:g}"
            )
        found.append(again)
    if torch.equal(*found):
        low, high = (level * sigma_data for level in LEVELS)
        raise InvalidArgumentError(
            f"denoise: returned the same for one x at sigma = {low:g} and {high:g}; it must depend on the noise level"
        )
    return network, spec
