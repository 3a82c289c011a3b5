"""From samples to pictures."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from .checks import check_integer
from .errors import InvalidArgumentError

__all__ = ["grid", "to_images"]


def to_images(x: Float[Tensor, "n c h w"]) -> UInt8[np.ndarray, "n h w c"]:
    """Samples in [-1, 1] to 8-bit images; values outside the range are clipped."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InvalidArgumentError(f"images have shape [n, 1 or 3, h, w], got {list(x.shape)}")
    _check_finite(x)
    scaled = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.permute(0, 2, 3, 1).cpu().numpy().astype(np.uint8)


def grid(x: Float[Tensor, "n ..."], *, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Samples as one picture: images [n, c, h, w] tiled row by row, points [n, 2] as a density.

    ``columns`` defaults to a square; ``scale`` enlarges each pixel, by default to some 56 an image.
    """
    if len(x) == 0:
        raise InvalidArgumentError("there are no samples to draw")
    if x.ndim == 2 and x.shape[1] == 2:
        _check_finite(x)
        return _density(x.detach().cpu().numpy())
    images = to_images(x)
    n, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else min(check_integer("columns", columns, 1), n)
    rows = math.ceil(n / columns)
    scale = max(1, round(56 / width)) if scale is None else check_integer("scale", scale, 1)
    tiles = np.zeros((rows * columns, height, width, channels), np.uint8)
    tiles[:n] = images
    pixels = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    pixels = pixels.reshape(rows * height, columns * width, channels)
    picture = Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _check_finite(x: Tensor) -> None:
    if not bool(x.isfinite().all()):
        raise InvalidArgumentError("the samples have values that are not finite")


def _density(points: Float[np.ndarray, "n 2"], size: int = 512) -> Image.Image:
    """Points of the plane as dark on white, first coordinate to the right, second upwards."""
    reach = max(1e-6, float(np.abs(points).max())) * 1.05
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=128, range=[[-reach, reach]] * 2)
    shade = 255 - np.sqrt(counts[::-1] / counts.max()) * 255
    return Image.fromarray(shade.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
