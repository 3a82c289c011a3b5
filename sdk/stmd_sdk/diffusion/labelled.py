"""Networks and posteriors given labels: how a class gets from a sample's key to the network.

Where a posterior or a loss meets a key it takes the network *given* the labels of that key's rows, which is a network
like any other: nothing between the key and the network knows of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InvalidArgumentError
from .classes import UNLABELLED, Classes, PlainLabels
from .network import Network
from .noise import AbstractNoise
from .posterior import FlowPosterior, MeanFlowPosterior, PointPosterior

__all__ = [
    "Guidance",
    "GuidedNetwork",
    "LabelledNetwork",
    "LabelledPosterior",
    "Labels",
    "check_guidance",
    "given_labels",
    "with_labels",
]

Labels = PlainLabels | Int[Tensor, " n"]
"""What is asked for; one each may be a tensor."""


Guidance = float | Float[Tensor, " b"]
"""w, of all rows or of each."""


def given_labels(classes: Classes | None, network: Network, noise: AbstractNoise, guidance: Guidance = 1.0) -> Network:
    """The network given the labels of the key's rows, with ``guidance``; itself, where it knows no classes.

    Guidance that the network has inside costs nothing; any other a second evaluation.
    """
    if classes is None:
        return network
    if noise.labels is None and not classes.null:
        raise InvalidArgumentError("the model was trained with labels alone: say which to draw, as in labels=0")
    if noise.labels is None:
        return LabelledNetwork(network, None, classes)
    if isinstance(guidance, Tensor) or 1 <= guidance <= classes.guided:
        return LabelledNetwork(network, noise.labels, classes, guidance)
    return GuidedNetwork(LabelledNetwork(network, noise.labels, classes), guidance)


def with_labels(
    times: Float[Tensor, "b k"], labels: Int[Tensor, " b"] | None, classes: Classes, guidance: Guidance = 1.0
) -> Float[Tensor, "b k1"]:
    """Times as a conditional network takes them: with w, as its share of the range, where that is inside; the label.

    Rows without a label, -1, have the null class, and nothing to be guided to.
    """
    column = torch.full_like(times[:, :1], classes.count)
    if labels is not None:
        column = torch.where(labels[:, None] < 0, column, labels[:, None])
    if classes.guided == 1:
        return torch.cat([times, column], dim=1)
    share = torch.zeros_like(column)
    if labels is not None:
        w = guidance[:, None] if isinstance(guidance, Tensor) else torch.full_like(share, guidance)
        share = torch.where(labels[:, None] < 0, share, (w - 1) / (classes.guided - 1))
    return torch.cat([times, share, column], dim=1)


@final
@dataclass(frozen=True, eq=False)
class LabelledNetwork:
    """A network that takes labels as the last column of its times, given those of its rows, and w inside its range."""

    network: Network
    labels: Int[Tensor, " b"] | None
    classes: Classes
    guidance: Guidance = 1.0

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate the network on the times and the labels."""
        return self.network(x, with_labels(times, self.labels, self.classes, self.guidance))


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
        twice = LabelledNetwork(self.given.network, both, self.given.classes)
        found, rows = twice(torch.cat([x, x]), torch.cat([times, times])), x.shape[0]  # len() would freeze an export's
        return found[rows:] + self.guidance * (found[:rows] - found[rows:])


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
        return self.posterior(given_labels(self.classes, self.network, noise, self.guidance))(x_t, t, noise)
