"""Classes: what a conditional network is told of each sample beside its times.

A label belongs to the key of its sample. Where a posterior or a loss meets a key it takes the network *given* the
labels of that key's rows, which is a network like any other: nothing between the key and the network knows of classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidArgumentError
from .network import Network
from .noise import AbstractNoise
from .posterior import FlowPosterior, MeanFlowPosterior, PointPosterior

__all__ = ["Classes", "LabelledNetwork", "LabelledPosterior", "given_labels"]

MOST_CLASSES = 65_536  # float32, in which labels travel beside the times, tells them all apart


@final
@dataclass(frozen=True)
class Classes:
    """The classes 0 to ``count`` - 1 of a conditional network, which have all ``names`` or none.

    With ``null`` it was trained on unlabelled rows too: without a label it draws from all classes, as they are mixed in
    its data. They are rows of a class of their own, number ``count``.
    """

    count: int
    names: tuple[str, ...] = field(default=(), compare=False)  # what they are called changes no network
    null: bool = True

    def __post_init__(self) -> None:
        check_integer("classes", self.count, 1, MOST_CLASSES)
        if self.names and len(self.names) != self.count:
            raise InvalidArgumentError(f"class_names: {len(self.names)} names for {self.count} classes")
        if len(set(self.names)) != len(self.names) or not all(self.names):
            raise InvalidArgumentError("class_names: must differ from each other, and none be empty")

    def given(self, network: Network, noise: AbstractNoise) -> Network:
        """The network given the labels of the key's rows."""
        if noise.labels is None and not self.null:
            raise InvalidArgumentError("the model was trained with labels alone: say which to draw")
        return LabelledNetwork(network, noise.labels, self.count)


def given_labels(classes: Classes | None, network: Network, noise: AbstractNoise) -> Network:
    """The network given the labels of the key's rows; itself, where it knows no classes."""
    return network if classes is None else classes.given(network, noise)


@final
@dataclass(frozen=True, eq=False)
class LabelledNetwork:
    """A network that takes labels as the last column of its times, given those of its rows; ``null`` is no label."""

    network: Network
    labels: Int[Tensor, " b"] | None
    null: int

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate the network on the times and the labels."""
        column = torch.full_like(times[:, :1], self.null)
        if self.labels is not None:
            column = torch.where(self.labels[:, None] < 0, column, self.labels[:, None])
        return self.network(x, torch.cat([times, column], dim=1))


@final
@dataclass(frozen=True, eq=False)
class LabelledPosterior:
    """p(x_0 | x_t, c) with the label c of each row's key: the ``posterior`` of the network given its labels."""

    network: Network
    classes: Classes
    posterior: Callable[[Network], FlowPosterior | MeanFlowPosterior | PointPosterior]

    def __call__(
        self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: AbstractNoise, /
    ) -> Float[Tensor, "b *d"]:
        """Draw x_0 for each sample."""
        return self.posterior(self.classes.given(self.network, noise))(x_t, t, noise)
