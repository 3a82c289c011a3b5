"""What a scheduler of diffusers says of the network that was trained with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import read_config
from ..diffusion.preconditioning import DiscreteSteps, EDMLevels, FlowLevels, Preconditioning
from ..errors import CheckpointError, InvalidArgumentError
from ..files import brief

__all__ = ["SCHEDULER", "read_scheduler"]

SCHEDULER = "scheduler_config.json"
CLIPPING = "DDPMScheduler", "DDIMScheduler"
"""Those that clip x_0 where their configuration does not say."""
STEPS = (
    *CLIPPING, "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "UniPCMultistepScheduler",
    "DEISMultistepScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LCMScheduler",
)  # fmt: skip
EDM = "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"
FLOW = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"

Values = Mapping[str, Any]


def read_scheduler(values: Values, source: str) -> tuple[Preconditioning, float | None]:
    """The levels of a scheduler's configuration, and the range that it clips x_0 to; ``source`` names it in errors.

    How its sampler spaces its steps (Karras's σ, a shift, offsets) has no part: the network's levels are what counts.
    """
    name = values.get("_class_name")
    try:
        if name in FLOW or (name in STEPS and values.get("prediction_type") == "flow_prediction"):
            return read_config(FlowLevels, {"steps": values.get("num_train_timesteps", 1000), "kind": "flow"}), None
        if name in EDM:
            keys = {"sigma_data": "sigma_data", "sigma_min": "sigma_min", "sigma_max": "sigma_max"}
            return read_config(EDMLevels, _renamed(values, keys) | {"kind": "edm"}), None
        if name in STEPS:
            return _steps(values), _clip(values)
    except InvalidArgumentError as error:
        raise CheckpointError(f"{source}: {error}") from error
    raise CheckpointError(
        f"{source}: the scheduler {brief(repr(name))} is not supported; there are {', '.join((*STEPS, *EDM, *FLOW))}"
    )


def _steps(values: Values) -> DiscreteSteps:
    if values.get("trained_betas") is not None:
        raise InvalidArgumentError("trained_betas: betas of one's own are not supported")
    for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule"):
        if key not in values:
            raise InvalidArgumentError(f"{key}: missing")
    keys = {
        "steps": "num_train_timesteps",
        "beta_start": "beta_start",
        "beta_end": "beta_end",
        "betas": "beta_schedule",
        "zero_snr": "rescale_betas_zero_snr",
    }
    return read_config(DiscreteSteps, _renamed(values, keys) | {"kind": "steps"})


def _renamed(values: Values, keys: dict[str, str]) -> dict[str, Any]:
    """What a configuration says, by our names; and its prediction."""
    named = {ours: values[theirs] for ours, theirs in keys.items() if theirs in values}
    return named | ({"prediction": values["prediction_type"]} if "prediction_type" in values else {})


def _clip(values: Values) -> float | None:
    if values.get("thresholding"):
        raise InvalidArgumentError("thresholding: the clipping of x_0 by its quantiles is not supported")
    if not values.get("clip_sample", values.get("_class_name") in CLIPPING):
        return None
    return float(values.get("clip_sample_range", 1.0))
