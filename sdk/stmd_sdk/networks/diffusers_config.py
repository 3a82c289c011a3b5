"""What a network of diffusers' own is, apart from its module, which takes seconds to import."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from ..errors import InvalidArgumentError
from .limits import check_image, check_sizes

__all__ = ["DiffusersConfig"]

Argument = bool | int | float | str | tuple[bool | int | float | str | None, ...] | None


@dataclass(frozen=True)
class DiffusersConfig:
    """A model of diffusers with the ``arguments`` of its own configuration, for what others trained.

    It takes one time, which is theirs, and a label where it has classes; channels beyond those of its input, a learnt
    variance, are dropped.
    """

    model: Literal["UNet2DModel", "DiTTransformer2DModel"]
    arguments: dict[str, Argument]
    kind: Literal["diffusers"] = "diffusers"

    def __post_init__(self) -> None:
        check_sizes(self.arguments)
        if not self.shape[0] <= self.out_channels:
            raise InvalidArgumentError(f"out_channels: {self.out_channels}, fewer than in_channels = {self.shape[0]}")
        if self.arguments.get("class_embed_type") not in (None, "none"):
            raise InvalidArgumentError(f"class_embed_type: {self.arguments['class_embed_type']!r} is not supported")

    @property
    def shape(self) -> tuple[int, int, int]:
        """[c, h, w] of its input."""
        side = self.arguments.get("sample_size")
        match side if isinstance(side, tuple) else (side, side):
            case (int(height), int(width)):
                pass
            case _:
                raise InvalidArgumentError("sample_size: missing; it says the size of the images")
        default = 3 if self.model == "UNet2DModel" else 4
        return cast(int, self.arguments.get("in_channels", default)), height, width

    @property
    def out_channels(self) -> int:
        """Those of its output, more than of its input where it learnt a variance too."""
        default = 3 if self.model == "UNet2DModel" else self.shape[0]
        given = self.arguments.get("out_channels", default)
        return default if given is None else cast(int, given)

    @property
    def classes(self) -> int:
        """How many it has; 0 for none."""
        if self.model == "UNet2DModel":
            return cast(int, self.arguments.get("num_class_embeds") or 0)
        return cast(int, self.arguments.get("num_embeds_ada_norm") or 1000)

    def check_input(self, in_channels: int, size: tuple[int, ...]) -> None:
        """Raise for an input that is not of its configuration's channels and size."""
        check_image(self.kind, in_channels, size, 1)
        if (in_channels, *size) != self.shape:
            raise InvalidArgumentError(f"this {self.model} takes {list(self.shape)}, not {[in_channels, *size]}")

    def build(self, in_channels: int, out_channels: int, times: int, size: tuple[int, ...], classes: int) -> nn.Module:
        """The network."""
        from .diffusers_network import DiffusersNetwork  # noqa: PLC0415  diffusers takes seconds to import

        return DiffusersNetwork(self, out_channels, classes)

    def tiny(self) -> DiffusersConfig:
        """Itself: what others chose may not shrink."""
        return self

    def known(self, model: type[Any]) -> dict[str, Argument]:
        """The arguments that ``model`` takes; raises for another that says something."""
        taken = inspect.signature(model.__init__).parameters
        for name, value in self.arguments.items():
            if name not in taken and value not in (None, False):
                raise InvalidArgumentError(f"{self.model} has no argument {name!r} (= {value!r})")
        return {name: value for name, value in self.arguments.items() if name in taken}
