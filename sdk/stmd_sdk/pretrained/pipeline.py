"""What :class:`~stmd_sdk.STMDPipeline` saved: a spec in diffusers' JSON, and the weights beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from ..diffusion.schedules import read_schedule
from ..errors import CheckpointError, InvalidArgumentError
from ..files import brief, is_file
from ..models.checkpoint import network_of
from ..models.folders import CONFIG, read_table
from ..models.spec import ModelSpec
from ..models.tensors import read_tensors
from .scheduler import SCHEDULER

__all__ = ["describes_own", "load_own", "own_spec"]

NETWORK, BRIDGE = "STMDNetwork", "STMDScheduler"  # as the classes of pipeline.py are called
PREFIX = "inner."


def describes_own(weights: Path) -> bool:
    """Whether diffusers' configuration beside a file of weights is that of this project's network."""
    return read_table(weights.parent / CONFIG).get("_class_name") == NETWORK


def own_spec(weights: Path) -> ModelSpec:
    """The spec of the network whose weights these are, at its pipeline's schedule where there is one."""
    inside = weights.parent
    source = inside / CONFIG
    spec = ModelSpec.from_json(str(read_table(source).get("spec")), str(source))
    scheduler = inside.parent / "scheduler" / SCHEDULER
    if not is_file(scheduler, CheckpointError):
        return spec
    values = read_table(scheduler)
    if (name := values.get("_class_name")) != BRIDGE:
        raise CheckpointError(f"{scheduler}: a {brief(str(name))}, and this project's network goes with {BRIDGE}")
    try:
        return replace(spec, schedule=read_schedule(values.get("schedule")))
    except InvalidArgumentError as error:
        raise CheckpointError(f"{scheduler}: {error}") from error


def load_own(weights: Path) -> tuple[ModelSpec, nn.Module]:
    """The spec and the network of a pipeline's folder: float32, on the CPU, in evaluation mode."""
    spec = own_spec(weights)
    tensors, _ = read_tensors(weights)
    return spec, network_of(weights, spec, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})
