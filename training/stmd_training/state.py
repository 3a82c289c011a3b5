"""A training state as one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from stmd_sdk.errors import CheckpointError, TrainingError
from stmd_sdk.models.tensors import read_tensors, write_tensors

from .recipe import Recipe
from .trainer import TrainState

__all__ = ["load_state", "save_state"]

MOMENTS = "exp_avg", "exp_avg_sq"
# What a run may change when it goes on: none of it decides what is learned.
FREE = {"microbatches", "checkpoint_every", "sample_every", "log_every"}


def save_state(path: Path, state: TrainState, recipe: Recipe, seconds: float) -> None:
    """Write weights, average, moments, the step, the recipe and the seconds trained so far."""
    tensors = {f"ema.{name}": tensor for name, tensor in state.ema.items()}
    for name, parameter in state.parameters.items():
        tensors[f"weight.{name}"] = parameter.detach()
        for moment in MOMENTS:
            if state.optimizer.state[parameter]:
                tensors[f"{moment}.{name}"] = state.optimizer.state[parameter][moment]
    metadata = {
        "step": str(state.step),
        "seconds": repr(seconds),
        "recipe": json.dumps(asdict(recipe), sort_keys=True),
    }
    write_tensors(path, tensors, metadata)


def load_state(path: Path, state: TrainState, recipe: Recipe) -> float:
    """Bring ``state`` to what was saved and return the seconds trained; another recipe is an error."""
    tensors, metadata = read_tensors(path)
    if not {"step", "seconds", "recipe"} <= metadata.keys():
        raise CheckpointError(f"{path}: not a training state of this project; begin anew with --restart")
    _check_recipe(path, json.loads(metadata["recipe"]), json.loads(json.dumps(asdict(recipe))))
    try:
        _fill(state, tensors, int(metadata["step"]))
        return float(metadata["seconds"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: a damaged training state ({error}); begin anew with --restart") from error


def _fill(state: TrainState, tensors: dict[str, Tensor], step: int) -> None:
    state.step = step
    for name, average in state.ema.items():
        average.copy_(tensors[f"ema.{name}"])
    for name, parameter in state.parameters.items():
        parameter.data.copy_(tensors[f"weight.{name}"])
        if step > 0:
            moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
            state.optimizer.state[parameter] = {"step": parameter.new_tensor(step, device="cpu"), **moments}


def _check_recipe(path: Path, old: dict[str, object], new: dict[str, object]) -> None:
    differing = [key for key in sorted((old.keys() | new.keys()) - FREE) if old.get(key) != new.get(key)]
    if differing:
        changes = ", ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in differing)
        raise TrainingError(
            f"{path.parent} holds a run of another recipe ({changes}). Give the same recipe to go on, "
            "another --out, or --restart to begin anew"
        )
