"""What a file may ask of a network: far beyond any in use, and little enough that asking takes no time or memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from ..checks import check_integer
from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["MOST_LEVELS", "WIDEST", "check_fields", "check_image", "check_numbers", "check_sizes", "check_weights"]

WIDEST = 65_536
MOST = {
    "depth": 512,
    "num_layers": 512,
    "layers_per_block": 16,
    "octaves": 32,
    "patch_size": 1024,
    "downsample_padding": 1,
}
MOST_WEIGHTS = 2**35
MOST_LEVELS = 10
MOST_NUMBERS = 2**27
"""In one input, and in a transformer's positions: an image of 4096×4096 in colour has 2^25.6, two are an input."""


def check_fields(config: DataclassInstance) -> None:
    """Raise for a configuration with a whole number that is out of bounds."""
    for field in fields(config):
        value: object = getattr(config, field.name)
        if isinstance(value, int):
            least = 0 if field.name in ("downsample_padding", "octaves") else 1
            check_integer(field.name, value, least, MOST.get(field.name, WIDEST))


def check_weights(weights: int) -> None:
    """Raise for networks that no machine holds; ``weights`` counts those of their largest layers."""
    if weights > MOST_WEIGHTS:
        raise InvalidArgumentError(f"a network of {weights:.3g} weights, more than {MOST_WEIGHTS:.3g}")


def check_numbers(kind: str, what: str, count: int) -> None:
    """Raise for inputs and positions that would fill the memory: on the positions' behalf before they are made."""
    if count > MOST_NUMBERS:
        raise InvalidArgumentError(f"{what} of this {kind} would have more than {MOST_NUMBERS} numbers")


def check_image(kind: str, in_channels: int, size: tuple[int, ...], multiple: int) -> None:
    """Raise for inputs [b, in_channels, *size] that are no images, or whose sides are no multiples."""
    if len(size) != 2:
        raise InvalidArgumentError(f"a {kind} takes images [b, c, h, w], not data of spatial shape {size}")
    if any(side % multiple for side in size):
        raise InvalidArgumentError(
            f"this {kind} needs height and width divisible by {multiple}, got {size[0]}x{size[1]}"
        )
    check_numbers(kind, "one input", in_channels * math.prod(size))


def check_sizes(values: Mapping[str, Any]) -> None:
    """Raise for numbers that no network of diffusers has: building would take for ever before it failed."""
    for key, value in values.items():
        several = isinstance(value, list | tuple)
        for number in cast(Sequence[Any], value) if several else [value]:
            most = MOST.get(key, WIDEST)
            if isinstance(number, int | float) and not -most <= number <= most:
                raise InvalidArgumentError(f"{key} is {number:.6g}, more than {most}")
        if several and len(value) > MOST_LEVELS:
            raise InvalidArgumentError(f"{key} has more than {MOST_LEVELS} entries")
