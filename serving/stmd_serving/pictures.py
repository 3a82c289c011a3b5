"""Uploads to measurements: pictures and masks, of the bytes that a client sent, by the project's own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor

from stmd_sdk.cli.options import OPERATORS as OF_FILES
from stmd_sdk.cli.restoring import LEAST_SIGMA, measured_shape
from stmd_sdk.data.pictures import mask_of, picture_as
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.operators import LinearOperator, Mask
from stmd_sdk.operators.named import named_operator

from .limits import Limits

__all__ = ["OPERATORS", "measurement_of", "operator_of"]

OPERATORS = OF_FILES.replace("mask:FILE", "mask")  # whose picture is sent along


def operator_of(text: str, shape: tuple[int, ...], mask: NDArray[np.float32] | None) -> tuple[LinearOperator, float]:
    """The operator that a client names for images of ``shape``, and its usual sigma. No file is opened for it."""
    if (text == "mask") != (mask is not None):
        raise InvalidArgumentError("operator mask and a picture `mask` go together: black hides, white shows")
    if mask is not None:
        return Mask(torch.from_numpy(mask)), 0.0
    named = None if text.startswith("mask") else named_operator(text, shape, _no_file)
    if named is None:
        raise InvalidArgumentError(f"operator must be one of {OPERATORS}; got {text!r}")
    return named


def _no_file(path: Path) -> Tensor:
    raise AssertionError(f"a client's path was to be opened: {path}")


def measurement_of(
    operator: str, shape: tuple[int, ...], image: bytes, mask: bytes | None, sigma: float | None, limits: Limits
) -> tuple[Float32[np.ndarray, "1 c h w"], NDArray[np.float32] | None, float]:
    """The pixels [1, c, h, w] of an upload, its mask [1, h, w] and its noise.

    Raises :class:`DataError` for pictures that are damaged, of another kind or size; :class:`RefusedError` beyond the
    limits.
    """
    shown = None if mask is None else mask_of("mask", mask, (1, *shape[1:]), limits.pixels).numpy()
    damage, usual = operator_of(operator, shape, shown)
    y = picture_as("image", image, measured_shape(damage, shape), limits.pixels)[None]
    if isinstance(damage, Mask):
        y = damage.A(y)  # what the image shows under the mask is not measured
    noise = max(usual, LEAST_SIGMA) if sigma is None else sigma
    return y.numpy(), shown, noise
