"""The model's spec: all that is needed to use a network, carried inside every artefact."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from torch import nn

from ..checks import check_integer
from ..codecs.codec import Codec
from ..config import read_config, read_json
from ..diffusion.classes import Classes
from ..diffusion.denoiser import Denoiser
from ..diffusion.labelled import LabelledPosterior, given_labels
from ..diffusion.loop import MAX_STEPS, Steps, time_grid
from ..diffusion.network import Network
from ..diffusion.noise import AbstractNoise, Noise
from ..diffusion.posterior import FlowPosterior, MeanFlowPosterior, PointPosterior
from ..diffusion.schedules import ScheduleConfig
from ..diffusion.vp import VPSchedule
from ..errors import CheckpointError, InvalidArgumentError
from ..mixtures.local import LocalGaussians
from ..networks import NetworkConfig, build_network
from .objective import Measured, Objective, lifted

__all__ = ["SPEC_VERSION", "Fact", "ModelSpec"]

SPEC_VERSION = 2

Fact = str | int | float


@dataclass(frozen=True)
class ModelSpec:
    """What a network is and what its output means.

    ``shape`` is that of one sample as the network sees it, channels first. ``sigma_data`` is the root mean
    square of the network's data about zero, σ_d, and ``local_gaussians`` the mixture fitted to them that target
    ``mixture`` starts from: both are measured once, before the training. ``classes`` are those of a network that
    takes labels. ``one_flow_step`` says why the model draws in M = 1 evaluation alone, where more were measured to be
    worse; empty where any M will do. ``training`` holds facts for people: data, steps, seconds, commit.
    """

    name: str
    objective: Objective
    shape: tuple[int, ...]
    network: NetworkConfig
    codec: Codec
    schedule: ScheduleConfig = field(default_factory=VPSchedule)
    sigma_data: float = 1.0
    local_gaussians: LocalGaussians | None = None
    classes: Classes | None = None
    one_flow_step: str = ""
    training: dict[str, Fact] = field(default_factory=dict[str, Fact])
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        if not self.shape or any(side < 1 for side in self.shape):
            raise InvalidArgumentError(f"shape: must be positive integers, channels first, got {self.shape}")
        self.codec.decoded_shape(self.shape)  # raises if the codec has none
        if not 0 < self.sigma_data < math.inf:
            raise InvalidArgumentError(f"sigma_data: must be positive and finite, got {self.sigma_data}")
        self.objective.check_measured(self.shape, self.measured)

    @property
    def measured(self) -> Measured:
        """What the objective takes from the rest of the spec."""
        return Measured(self.schedule, self.sigma_data, self.codec.bound, self.local_gaussians)

    @property
    def default_inference_steps(self) -> int:
        """N where the user gives none: STMD and a pretrained denoiser 4, Mean Flow 1, DDPM 100."""
        return self.objective.default_steps

    @property
    def times(self) -> int:
        """How many times the network takes, (τ, τ - r, t), (τ, τ - r) or (t), with w and label where it has them."""
        return self.objective.times + (0 if self.classes is None else self.classes.times)

    @property
    def in_channels(self) -> int:
        """Channels of the network's packed input: STMD sees z and x_t."""
        return self.shape[0] * self.objective.states

    def flow_steps(self, mean_flow_steps: int | None) -> int:
        """M, or by default the objective's: 1 of what was trained for it, 16 of a pretrained denoiser."""
        return self.objective.default_flow_steps if mean_flow_steps is None else mean_flow_steps

    def check_steps(self, inference_steps: int, mean_flow_steps: int) -> None:
        """Raise for numbers of steps, N and M, that are none, or that the objective or the model does not have."""
        check_integer("inference_steps", inference_steps, 1, MAX_STEPS)
        check_integer("mean_flow_steps", mean_flow_steps, 1, MAX_STEPS)
        if self.one_flow_step and mean_flow_steps > 1:
            raise InvalidArgumentError(f"mean_flow_steps: {self.name} takes 1 alone: {self.one_flow_step}")
        self.objective.check_steps(inference_steps, mean_flow_steps)

    def grid(self, inference_steps: Steps, mean_flow_steps: int | None) -> list[float]:
        """The times from 1 to 0 that ``inference_steps`` ask for, or by default the model's; checked with M."""
        times = time_grid(self.default_inference_steps if inference_steps is None else inference_steps)
        self.check_steps(len(times) - 1, self.flow_steps(mean_flow_steps))
        return times

    def build_network(self) -> nn.Module:
        """A freshly initialised network."""
        return build_network(
            self.network,
            in_channels=self.in_channels,
            out_channels=self.shape[0],
            times=self.times - (self.classes is not None),
            size=self.shape[1:],
            classes=0 if self.classes is None else self.classes.count,
        )

    def build_posterior(
        self, network: Network, mean_flow_steps: int = 1, guidance: float = 1.0
    ) -> FlowPosterior | MeanFlowPosterior | PointPosterior | LabelledPosterior:
        """The posterior that ``network`` was trained as, with M = ``mean_flow_steps``; guided to its keys' labels."""
        if self.classes is None:
            return self.objective.posterior(network, mean_flow_steps, self.measured)
        return LabelledPosterior(
            network,
            self.classes,
            lambda given: self.objective.posterior(given, mean_flow_steps, self.measured),
            guidance,
        )

    def build_denoiser(self, network: Network, noise: AbstractNoise | None = None, guidance: float = 1.0) -> Denoiser:
        """The denoiser E[x_0 | x_0 + σ n = x] that ``network`` knows, of x_0 as it sees it.

        Of a model with classes that of all together, or, for the rows of ``noise`` alone, given its labels. Raises
        :class:`InvalidArgumentError` where the objective has none.
        """
        key = Noise.of(0, 1) if noise is None else noise  # one without labels
        return self.objective.denoiser(given_labels(self.classes, network, key, guidance), self.measured)

    def to_json(self) -> str:
        """The spec as JSON; what a model does not have, classes, guidance inside, a limit of M, is left out."""
        values = asdict(self)
        if not self.one_flow_step:
            del values["one_flow_step"]
        if self.classes is None:
            del values["classes"]
        elif self.classes.guided == 1:
            del values["classes"]["guided"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelSpec:
        """Read a spec; ``source`` names the artefact in errors."""
        values: object = read_json(text, f"{source}: its spec", CheckpointError)
        version = cast(dict[str, object], values).get("version") if isinstance(values, dict) else None
        if isinstance(version, int) and version > SPEC_VERSION:
            raise CheckpointError(
                f"{source}: its spec has version {version}, this SDK reads up to {SPEC_VERSION}; "
                "a newer one is needed: pip install -U stmd-sdk"
            )
        try:
            return read_config(cls, _from_version_1(values) if version == 1 else values)
        except InvalidArgumentError as error:
            raise CheckpointError(f"{source}: a foreign or damaged spec ({error})") from error


def _from_version_1(values: Any) -> Any:
    """Version 1 had the objective's switches side by side, and one schedule."""
    schedule = values.get("schedule", {})
    if isinstance(schedule, dict):
        schedule = {"kind": "vp", **cast(dict[str, Any], schedule)}
    return {**lifted(values), "schedule": schedule, "version": SPEC_VERSION}
