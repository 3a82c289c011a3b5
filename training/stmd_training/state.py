"""A training state as one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from stmd_sdk.config import read_json
from stmd_sdk.errors import CheckpointError, TrainingError
from stmd_sdk.models.tensors import read_metadata, read_tensors, write_tensors

from .recipe import Recipe
from .steps import TrainState

__all__ = ["is_sealed_to_data", "load_state", "planned_steps", "save_state"]

MOMENTS = "exp_avg", "exp_avg_sq"
# What a run may change when it goes on: it may be trained further, and else none of it decides what is learned.
FREE = {"microbatches", "checkpoint_every", "sample_every", "log_every", "steps"}


def save_state(path: Path, state: TrainState, recipe: Recipe, seconds: float, data: str = "") -> None:
    """Write weights, average, moments, the step, the recipe, the seconds trained so far and the data's identity.

    Raises :class:`TrainingError`, and leaves the last state as it was, where a number is not finite.
    """
    tensors = {f"ema.{name}": tensor for name, tensor in state.ema.items()}
    for name, parameter in state.parameters.items():
        tensors[f"weight.{name}"] = parameter.detach()
        for moment in MOMENTS:
            if state.optimizer.state[parameter]:
                tensors[f"{moment}.{name}"] = state.optimizer.state[parameter][moment]
    broken = next((name for name, tensor in tensors.items() if not _finite(tensor)), None)
    if broken is not None:
        raise TrainingError(
            f"step {state.step}: {broken} has values that are not finite; the last checkpoint is intact. Lower "
            "learning_rate or clip_norm, and start anew with --restart"
        )
    metadata = {
        "data": data,
        "step": str(state.step),
        "seconds": repr(seconds),
        "recipe": json.dumps(asdict(recipe), sort_keys=True),
    }
    write_tensors(path, tensors, metadata)


def load_state(path: Path, state: TrainState, recipe: Recipe, data: str = "") -> float:
    """Bring ``state`` to what was saved and return the seconds trained.

    Another recipe, other data (states from before they were remembered aside) and fewer steps than are done are errors.
    """
    tensors, metadata = read_tensors(path)
    if not {"step", "seconds", "recipe"} <= metadata.keys():
        raise CheckpointError(f"{path}: not a training state of this project; begin anew with --restart")
    _check_recipe(path, _recipe(path, metadata), json.loads(json.dumps(asdict(recipe))))
    if metadata.get("data", data) != data:
        raise TrainingError(
            f"{path.parent} holds a run on other data ({metadata['data']}, and here {data}). Give the same data to go "
            "on, another --out, or --restart to begin anew"
        )
    try:
        step, seconds = int(metadata["step"]), float(metadata["seconds"])
        if step < 0 or not 0 <= seconds < math.inf:
            raise ValueError(f"{step} steps in {seconds} seconds")
        _fill(state, tensors, step)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: a damaged training state ({error}); begin anew with --restart") from error
    if step > recipe.steps:
        raise TrainingError(f"{path.parent} holds a run of {step} steps already: {recipe.steps} are fewer")
    return seconds


def planned_steps(path: Path) -> int | None:
    """How many steps the run of a state was given; None where that cannot be read."""
    steps = _recipe(path, read_metadata(path)).get("steps")
    return steps if isinstance(steps, int) else None


def is_sealed_to_data(path: Path) -> bool:
    """Whether a state says which data it is of: those from before vectors were standardised do not."""
    return "data" in read_metadata(path)


def _recipe(path: Path, metadata: dict[str, str]) -> dict[str, object]:
    source = f"{path}: a damaged training state"
    recipe: object = read_json(metadata.get("recipe", ""), source, CheckpointError)
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{source} (its recipe is no table); begin anew with --restart")
    return cast(dict[str, object], recipe)


def _fill(state: TrainState, tensors: dict[str, Tensor], step: int) -> None:
    """Copy what was saved once all of it is found to fit: nothing is broadcast, cast or half done."""
    parts = {f"ema.{name}": average for name, average in state.ema.items()}
    parts |= {f"weight.{name}": parameter.data for name, parameter in state.parameters.items()}
    if step > 0:
        for name, parameter in state.parameters.items():
            parts |= {f"{moment}.{name}": torch.empty_like(parameter.data) for moment in MOMENTS}
    for name, part in parts.items():
        if tensors[name].shape != part.shape or tensors[name].dtype != part.dtype or not _finite(tensors[name]):
            raise ValueError(f"{name} has another shape, or values that are not finite")
        if name.startswith("exp_avg_sq.") and bool((tensors[name] < 0).any()):
            raise ValueError(f"{name} is negative")
    for name, part in parts.items():
        part.copy_(tensors[name])
    state.step, on_device = step, state.optimizer.defaults["capturable"]
    for name, parameter in state.parameters.items():
        if step > 0:
            moments = {moment: parts[f"{moment}.{name}"] for moment in MOMENTS}
            count = parameter.new_tensor(step, device=parameter.device if on_device else "cpu")
            state.optimizer.state[parameter] = {"step": count, **moments}


def _finite(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())


def _defaults() -> dict[str, object]:
    """What a key is that a state from before there was one does not have; those of tables as ``table.key``."""
    given = {key.name: key.default for key in fields(Recipe) if key.default is not MISSING}
    made = {key.name: key.default_factory() for key in fields(Recipe) if key.default_factory is not MISSING}
    tables = {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in (given | made).items()
    }
    return dict(_flat(json.loads(json.dumps(tables))))


def _flat(values: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested tables."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(cast(dict[str, object], value), f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _check_recipe(path: Path, old: dict[str, object], new: dict[str, object]) -> None:
    was, now, defaults = dict(_flat(old)), dict(_flat(new)), _defaults()
    was |= {key: defaults[key] for key in now.keys() - was.keys() if key in defaults}
    kept = (key for key in sorted(was.keys() | now.keys()) if key.partition(".")[0] not in FREE)
    differing = [key for key in kept if was.get(key) != now.get(key)]
    if differing:
        changes = ", ".join(f"{key}: {was.get(key)!r} there, {now.get(key)!r} here" for key in differing)
        raise TrainingError(
            f"{path.parent} holds a run of another recipe ({changes}). Give the same recipe to go on, "
            "another --out, or --restart to begin anew"
        )
