"""Classes: what a conditional network is told of each sample beside its times.

A label belongs to the key of its sample. Where a posterior or a loss meets a key it takes the network *given* the
labels of that key's rows, which is a network like any other: nothing between the key and the network knows of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidArgumentError
from .network import Network
from .noise import UNLABELLED, AbstractNoise
from .posterior import FlowPosterior, MeanFlowPosterior, PointPosterior

__all__ = [
    "Classes",
    "GuidedNetwork",
    "LabelledNetwork",
    "LabelledPosterior",
    "Labels",
    "check_guidance",
    "given_labels",
]

Labels = int | str | Sequence[int | str] | Int[Tensor, " n"] | None
"""What is asked for: one class for all samples or one each, by number or name; None is all classes together."""

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

    def given(self, network: Network, noise: AbstractNoise, guidance: float = 1.0) -> Network:
        """The network given the labels of the key's rows, with classifier-free ``guidance``."""
        if noise.labels is None and not self.null:
            raise InvalidArgumentError("the model was trained with labels alone: say which to draw, as in labels=0")
        given = LabelledNetwork(network, noise.labels, self.count)
        return given if guidance == 1 or noise.labels is None else GuidedNetwork(given, guidance)

    def numbered(self, labels: Labels, n: int) -> Int[Tensor, " n"]:
        """The labels of ``n`` samples as numbers. InvalidArgumentError for those that are none, or not as many."""
        if isinstance(labels, Tensor) and (labels.is_floating_point() or labels.dtype == torch.bool):
            raise InvalidArgumentError(f"labels must be integers, got {labels.dtype}")
        plain: Any = labels
        if hasattr(plain, "tolist"):  # tensors, NumPy's arrays and numbers
            plain = plain.tolist()
        if isinstance(plain, str) or not isinstance(plain, Iterable):
            return torch.full((n,), self.number(plain))
        numbers = [self.number(label) for label in cast(Iterable[Any], plain)]
        if len(numbers) != n:
            raise InvalidArgumentError(f"labels: got {len(numbers)} for {n} samples")
        return torch.tensor(numbers)

    def number(self, label: Any) -> int:
        """The number of a class, given by number or name."""
        if not isinstance(label, str):
            return check_integer("labels", label, 0, self.count - 1)
        if label not in self.names:
            known = ", ".join(self.names) if self.names else f"the numbers 0 to {self.count - 1}, which have no names"
            raise InvalidArgumentError(f"labels: no class {label!r}; there are {known}")
        return self.names.index(label)


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
class GuidedNetwork:
    """Classifier-free guidance (Ho and Salimans, 2022): without + w (with - without) the labels, in one batch.

    Velocities, endpoints and noises are affine in what the network puts out, so it combines each of them. What it then
    draws is no law that the model was trained on, unless w = 1 (the label's) or 0 (that of all classes).
    """

    given: LabelledNetwork
    guidance: float

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate the network with and without labels."""
        labels = self.given.labels
        assert labels is not None  # or there would be nothing to guide to
        both = torch.cat([labels, torch.full_like(labels, UNLABELLED)])
        twice = LabelledNetwork(self.given.network, both, self.given.null)
        label, null = twice(torch.cat([x, x]), torch.cat([times, times])).chunk(2)
        return null + self.guidance * (label - null)


def check_guidance(guidance: float, classes: Classes | None, noise: AbstractNoise) -> None:
    """Raise for guidance that means nothing, or that there is nothing to guide with or to."""
    if isinstance(guidance, bool) or not isinstance(guidance, int | float) or not 0 <= guidance < math.inf:
        raise InvalidArgumentError(f"guidance must be a finite number of at least 0, got {guidance!r}")
    if guidance == 1:
        return
    if classes is None:
        raise InvalidArgumentError("guidance: the model has no classes to guide to")
    if not classes.null:
        raise InvalidArgumentError("guidance: the model was trained with labels alone (unlabelled_share = 0)")
    if noise.labels is None:
        raise InvalidArgumentError("guidance goes with labels: say which class to guide to")


@final
@dataclass(frozen=True, eq=False)
class LabelledPosterior:
    """p(x_0 | x_t, c) with the label c of each row's key: the ``posterior`` of the network given its labels."""

    network: Network
    classes: Classes
    posterior: Callable[[Network], FlowPosterior | MeanFlowPosterior | PointPosterior]
    guidance: float = 1.0

    def __call__(
        self, x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: AbstractNoise, /
    ) -> Float[Tensor, "b *d"]:
        """Draw x_0 for each sample."""
        return self.posterior(self.classes.given(self.network, noise, self.guidance))(x_t, t, noise)
