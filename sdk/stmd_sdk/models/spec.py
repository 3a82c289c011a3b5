"""The model's spec: all that is needed to use a network, carried inside every artefact."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Literal, cast

from torch import nn

from ..checks import check_integer
from ..codecs.codec import Codec
from ..config import read_config, read_json
from ..diffusion.loop import MAX_STEPS
from ..diffusion.posterior import DDPMPosterior, MeanFlowPosterior, Network, Output, Posterior, STMDPosterior
from ..diffusion.schedule import VPSchedule
from ..diffusion.target import AbstractTarget, ResidualTarget, X0Target
from ..errors import CheckpointError, InvalidArgumentError
from ..mixtures.local import LocalGaussians, MixtureTarget
from ..networks import NetworkConfig, build_network

__all__ = ["SPEC_VERSION", "Fact", "ModelSpec", "Objective", "Target"]

SPEC_VERSION = 1

Objective = Literal["stmd", "meanflow", "ddpm"]
Target = Literal["x0", "residual", "mixture"]
"""What the conditional flow generates: x_0, its residual about one Gaussian's posterior, or about a mixture's."""
Fact = str | int | float

DEFAULT_STEPS: dict[Objective, int] = {"stmd": 4, "meanflow": 1, "ddpm": 100}
TIMES: dict[Objective, int] = {"stmd": 3, "meanflow": 2, "ddpm": 1}


@dataclass(frozen=True)
class ModelSpec:
    """What a network is and what its output means.

    ``shape`` is that of one sample as the network sees it, channels first. ``sigma_data`` is the root mean
    square of the network's data about zero, σ_d, and ``local_gaussians`` the mixture fitted to them that target
    ``mixture`` starts from: both are measured once, before the training. A ``bounded`` model was trained to have
    its draws clamped to its codec's range. ``training`` holds facts for people: data, steps, seconds, commit.
    """

    name: str
    objective: Objective
    shape: tuple[int, ...]
    network: NetworkConfig
    codec: Codec
    schedule: VPSchedule = field(default_factory=VPSchedule)
    target: Target = "x0"
    output: Output = "velocity"
    bounded: bool = False
    sigma_data: float = 1.0
    local_gaussians: LocalGaussians | None = None
    training: dict[str, Fact] = field(default_factory=dict[str, Fact])
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        if not self.shape or any(side < 1 for side in self.shape):
            raise InvalidArgumentError(f"shape: must be positive integers, channels first, got {self.shape}")
        self.codec.decoded_shape(self.shape)  # raises if the codec has none
        if not 0 < self.sigma_data < math.inf:
            raise InvalidArgumentError(f"sigma_data: must be positive and finite, got {self.sigma_data}")
        if self.objective != "stmd" and self.target != "x0":
            raise InvalidArgumentError(
                f"target: only objective 'stmd' has a target other than x0, not {self.objective!r}"
            )
        if (self.target == "mixture") != (self.local_gaussians is not None):
            raise InvalidArgumentError("local_gaussians: target 'mixture' needs them, and no other has them")
        if self.local_gaussians is not None:
            own = (self.local_gaussians.dimension,)
            if self.shape != own:
                raise InvalidArgumentError(f"local_gaussians: of shape {own}, for samples of shape {self.shape}")
            if self.output == "x0":
                raise InvalidArgumentError("output: cannot be 'x0' with target 'mixture', where x_0 has several y")
        if self.bounded and (self.objective != "stmd" or self.codec.bound is None):
            raise InvalidArgumentError("bounded: needs objective 'stmd' and a codec that has a range, as pixels do")
        if self.objective != "stmd" and self.output == "correction":
            raise InvalidArgumentError(f"output: only objective 'stmd' has 'correction', not {self.objective!r}")
        if self.objective == "ddpm" and self.output != "velocity":
            raise InvalidArgumentError("output: a DDPM network predicts the noise; output must stay 'velocity'")

    @property
    def default_inference_steps(self) -> int:
        """The number of inference steps where the user gives none: STMD 4, Mean Flow 1, DDPM 100."""
        return DEFAULT_STEPS[self.objective]

    @property
    def times(self) -> int:
        """How many times the network takes: (τ, τ - r, t), (τ, τ - r) or (t)."""
        return TIMES[self.objective]

    @property
    def in_channels(self) -> int:
        """Channels of the network's packed input: STMD sees z and x_t."""
        return self.shape[0] * (2 if self.objective == "stmd" else 1)

    def check_steps(self, inference_steps: int, mean_flow_steps: int) -> None:
        """Raise for numbers of steps, N and M, that are none, or that the objective does not have."""
        check_integer("inference_steps", inference_steps, 1, MAX_STEPS)
        check_integer("mean_flow_steps", mean_flow_steps, 1, MAX_STEPS)
        if self.objective == "meanflow" and inference_steps != 1:
            raise InvalidArgumentError("Mean Flow knows t = 1 only: inference_steps must be 1")
        if self.objective == "ddpm" and mean_flow_steps != 1:
            raise InvalidArgumentError("DDPM has no Mean Flow inside: mean_flow_steps must be 1")

    def build_network(self) -> nn.Module:
        """A freshly initialised network."""
        return build_network(
            self.network,
            in_channels=self.in_channels,
            out_channels=self.shape[0],
            times=self.times,
            size=self.shape[1:],
        )

    def build_target(self) -> AbstractTarget:
        """What the conditional flow generates."""
        if self.local_gaussians is not None:
            return MixtureTarget(self.schedule, self.local_gaussians)
        return X0Target() if self.target == "x0" else ResidualTarget(self.schedule, self.sigma_data)

    def build_posterior(self, network: Network, mean_flow_steps: int = 1) -> Posterior:
        """The posterior that ``network`` was trained as, with M = ``mean_flow_steps``."""
        match self.objective:
            case "stmd":
                bound = self.codec.bound if self.bounded else None
                return STMDPosterior(network, self.build_target(), self.output, mean_flow_steps, bound)
            case "meanflow":
                return MeanFlowPosterior(network, self.output, mean_flow_steps)
            case "ddpm":
                return DDPMPosterior(network, self.schedule, self.codec.bound)

    def to_json(self) -> str:
        """The spec as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

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
            return read_config(cls, values)
        except InvalidArgumentError as error:
            raise CheckpointError(f"{source}: a foreign or damaged spec ({error})") from error
