"""From samples to pictures. Takes tensors and arrays alike, and does not import PyTorch for it."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .checks import check_integer
from .errors import InvalidArgumentError

__all__ = ["grid", "png_bytes", "to_images"]


def to_images(x: Any) -> NDArray[np.uint8]:
    """Samples [n, c, h, w] in [-1, 1] to 8-bit images [n, h, w, c]; values outside the range are clipped."""
    x = _array(x)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InvalidArgumentError(f"images have shape [n, 1 or 3, h, w], got {list(x.shape)}")
    scaled = ((x.clip(-1, 1) + 1) * np.float32(127.5)).round()
    return scaled.transpose(0, 2, 3, 1).astype(np.uint8)


def grid(x: Any, *, columns: int | None = None, scale: int | None = None) -> Image.Image:
    """Samples as one picture: images [n, c, h, w] tiled row by row, points [n, 2] as a density.

    ``columns`` defaults to a square; ``scale`` enlarges each pixel, by default to some 56 an image.
    """
    if len(x) == 0:
        raise InvalidArgumentError("there are no samples to draw")
    if x.ndim == 2 and x.shape[1] == 2:
        return _density(_array(x))
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


def png_bytes(picture: Image.Image) -> bytes:
    """What a .png file of the picture holds."""
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def _array(x: Any) -> NDArray[np.float32]:
    """A tensor on any device, or an array, as an array of finite numbers."""
    array = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, np.float32)
    if not np.isfinite(array).all():
        raise InvalidArgumentError("the samples have values that are not finite")
    return array


def _density(points: NDArray[np.float32], size: int = 512) -> Image.Image:
    """Points of the plane as dark on white, first coordinate to the right, second upwards."""
    reach = max(1e-6, float(np.abs(points).max())) * 1.05
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=128, range=[[-reach, reach]] * 2)
    shade = 255 - np.sqrt(counts[::-1] / counts.max()) * 255
    return Image.fromarray(shade.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
