"""Operators by name, as a shell gives them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ..errors import DataError, InvalidArgumentError
from .linear import Blur, Grayscale, Mask, average_pool, bicubic
from .protocol import LinearOperator

__all__ = ["named_operator"]

BLUR_SIGMA = 0.02  # of 8-bit images: undoing a blur without noise would amplify their rounding


def named_operator(
    text: str, shape: tuple[int, ...], read_mask: Callable[[Path], Tensor]
) -> tuple[LinearOperator, float] | None:
    """The operator that ``text`` names for images of ``shape`` [c, h, w], and the usual sigma of its noise; or None.

    ``mask:FILE``, ``sr2`` or ``sr4`` (means of squares), ``bicubic2`` or ``bicubic4``, ``deblur[:DEVIATION]``,
    ``motion[:LENGTH[:ANGLE]]``, ``gray``; ``read_mask`` reads a file, 1 where the image is measured.
    """
    name, _, rest = text.partition(":")
    values = ([rest] if name == "mask" else rest.split(":")) if rest else []  # a file's name may have colons
    found: tuple[LinearOperator, float] | None = None
    try:
        match name, [float(value) for value in values] if name != "mask" else values:
            case "mask", [file]:
                found = Mask(read_mask(Path(str(file)))), 0.0
            case (("sr2" | "sr4" | "bicubic2" | "bicubic4"), []):
                found = (bicubic if name.startswith("bicubic") else average_pool)(shape, int(name[-1])), 0.0
            case (("deblur" | "motion"), [float(wide), *_]) if not 0 < wide <= max(shape[1:]):
                raise InvalidArgumentError(f"{text}: a blur must be narrower than the image, {max(shape[1:])} pixels")
            case "deblur", [*numbers] if len(numbers) <= 1:
                found = Blur.gaussian(*(numbers or [1.5])), BLUR_SIGMA  # type: ignore[reportArgumentType]
            case "motion", [*numbers] if len(numbers) <= 2:
                length, angle = [*numbers, *[9.0, 0.0][len(numbers) :]]
                found = Blur.motion(int(length), float(angle)), BLUR_SIGMA
            case "gray", []:
                if shape[0] != 3:
                    raise InvalidArgumentError(f"gray restores colour, and the model's images are {list(shape)}")
                found = Grayscale(), 0.0
            case _:
                pass
    except ValueError as error:
        if isinstance(error, (InvalidArgumentError, DataError)):
            raise
    return found
