"""Codecs: between what a user holds (images in [-1, 1], vectors) and what the network sees."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..errors import CheckpointError, InvalidArgumentError
from .vae import SD_VAE_FT_EMA, load_vae

__all__ = ["AbstractCodec", "Codec", "LatentCodec", "PixelCodec", "VectorCodec"]

ROWS = 8  # images that the VAE sees at once: at 256x256 one activation of eight takes 268 MB


class AbstractCodec(ABC):
    """An encoder and its decoder."""

    @property
    @abstractmethod
    def bound(self) -> float | None:
        """The largest absolute value that the network's data can have; None where there is no range."""

    @abstractmethod
    def decoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample that the network sees as ``shape``; raises if it can see none of that shape."""

    @abstractmethod
    def prepare(self, shape: tuple[int, ...]) -> None:
        """Load what ``decode`` needs for samples of ``shape``: what is missing is said before any work."""

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

    def decoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same."""
        return shape

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Nothing is needed."""

    def encode(self, x: Tensor) -> Tensor:
        """The images themselves."""
        return x

    def decode(self, x_0: Tensor) -> Tensor:
        """The images, clamped to [-1, 1]."""
        return x_0.clamp(-1.0, 1.0)


@final
@dataclass(frozen=True)
class VectorCodec(AbstractCodec):
    """Vectors without a range: x = ``mean`` + ``scale`` x_0, column by column; x = x_0 where there is no ``scale``.

    The reverse SDE starts from N(0, I), so the network must see data of about unit scale.
    """

    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    kind: Literal["vector"] = "vector"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.scale):
            raise InvalidArgumentError(f"mean: needs one number a scale, has {len(self.mean)} for {len(self.scale)}")
        if not all(map(math.isfinite, self.mean)) or not all(0 < scale < math.inf for scale in self.scale):
            raise InvalidArgumentError("scale: must be positive and finite, and mean finite")

    @classmethod
    def standardising(cls, x: Float[Tensor, "n d"]) -> VectorCodec:
        """The codec in which the columns of ``x`` have mean 0 and deviation 1; a constant one keeps its scale."""
        deviation, mean = torch.std_mean(x.double(), dim=0, correction=0)
        # Rounding alone leaves a constant column with a deviation that is none.
        varies = deviation > 1e-7 * mean.abs()
        return cls(tuple(mean.tolist()), tuple(torch.where(varies, deviation, 1.0).tolist()))

    @property
    def bound(self) -> float | None:
        """None."""
        return None

    def decoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same."""
        if self.scale and shape != (len(self.scale),):
            raise InvalidArgumentError(f"codec: has {len(self.scale)} columns, for samples of shape {list(shape)}")
        return shape

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Nothing is needed."""

    def encode(self, x: Tensor) -> Tensor:
        """(x - mean) / scale, float32."""
        if not self.scale:
            return x
        mean, scale = (torch.tensor(row, dtype=torch.float64, device=x.device) for row in (self.mean, self.scale))
        return ((x.double() - mean) / scale).float()

    def decode(self, x_0: Tensor) -> Tensor:
        """mean + scale x_0."""
        return _row(self.mean, x_0.device) + _row(self.scale, x_0.device) * x_0 if self.scale else x_0


def _row(values: tuple[float, ...], device: torch.device) -> Float[Tensor, " d"]:
    """Numbers on a device; copied there once, as nothing can be while a run is captured."""
    return torch.tensor(values, device=device) if torch.compiler.is_exporting() else _kept_row(values, device)


@functools.lru_cache(64)
def _kept_row(values: tuple[float, ...], device: torch.device) -> Float[Tensor, " d"]:
    with torch.inference_mode(False):  # gradients pass it too
        return torch.tensor(values, device=device)


@final
@dataclass(frozen=True)
class LatentCodec(AbstractCodec):
    """Images in [-1, 1], seen by the network as the scaled latents of Stable Diffusion's VAE.

    x_0 = s (z - m) with z ~ N(mean(x), deviation(x)²), s = ``scaling_factor`` (Rombach et al., 2022) and
    m = ``shift_factor``, which some VAEs have. ``vae`` is a folder, or ``owner/name@commit`` in the local Hugging Face
    cache; ``sha256`` that of its weights, if they are to be checked. An image side is ``factor`` times the latent's.
    The VAE is loaded when first used, stays float32 and is never downloaded: :class:`CheckpointError` says how to get
    it.
    """

    vae: str = SD_VAE_FT_EMA
    scaling_factor: float = 0.18215
    factor: int = 8
    channels: int = 3
    sha256: str | None = None
    shift_factor: float = 0.0
    kind: Literal["latents"] = "latents"

    def __post_init__(self) -> None:
        if not 0 < self.scaling_factor < math.inf:
            raise InvalidArgumentError(f"scaling_factor: must be positive and finite, got {self.scaling_factor}")
        if not math.isfinite(self.shift_factor):
            raise InvalidArgumentError(f"shift_factor: must be finite, got {self.shift_factor}")
        check_integer("factor", self.factor, 1)
        check_integer("channels", self.channels, 1)

    @property
    def bound(self) -> float | None:
        """None."""
        return None

    def decoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """[channels, factor h, factor w] of latents [c, h, w]."""
        if len(shape) != 3:
            raise InvalidArgumentError(f"shape: latents have shape [c, h, w], got {list(shape)}")
        return self.channels, self.factor * shape[1], self.factor * shape[2]

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Load the VAE and compare it with this codec; raises :class:`CheckpointError`."""
        config = load_vae(self.vae, self.sha256).config
        found = config.latent_channels, config.out_channels, 2 ** (len(config.block_out_channels) - 1)
        if found != (shape[0], self.channels, self.factor):
            raise CheckpointError(
                f"{self.vae} has {found[0]} latent channels, {found[1]} image channels and a factor of {found[2]}; "
                f"the model wants {shape[0]}, {self.channels} and {self.factor}"
            )

    def encode(self, x: Float[Tensor, "b c h w"], noise: Noise | None = None) -> Float[Tensor, "b c_z h_z w_z"]:
        """Latents of images: a draw with ``noise``, one key a row; the mean without."""
        vae = self._vae(x.device)
        moments = torch.cat([vae.encode(rows, return_dict=False)[0].parameters for rows in x.split(ROWS)])
        mean, log_variance = moments.chunk(2, dim=1)
        if noise is None:
            return self.scaling_factor * (mean - self.shift_factor)
        # The bounds are diffusers', and were the VAE's in training.
        deviation = (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        return self.scaling_factor * (mean + deviation * noise.normal(*mean.shape[1:]) - self.shift_factor)

    def decode(self, x_0: Float[Tensor, "b c_z h_z w_z"]) -> Float[Tensor, "b c h w"]:
        """The images of latents, clamped to [-1, 1]."""
        vae = self._vae(x_0.device)
        # A loop over rows would freeze the batch of an exported graph.
        z = x_0 / self.scaling_factor + self.shift_factor
        chunks = (z,) if torch.compiler.is_exporting() else z.split(ROWS)
        return torch.cat([vae.decode(rows, return_dict=False)[0] for rows in chunks]).clamp(-1, 1)

    def _vae(self, device: torch.device) -> Any:
        vae = load_vae(self.vae, self.sha256)
        return vae if vae.device == device else vae.to(device)


Codec = PixelCodec | VectorCodec | LatentCodec
