"""What a run trains on, as a person reads it and as a state remembers it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import torch

from stmd_sdk.codecs.codec import Codec, VectorCodec
from stmd_sdk.data.arrays import ArrayData, ShardedData, WeightedData
from stmd_sdk.errors import DataError, DataWarning
from stmd_sdk.models.tensors import digest_of

from .batches import TrainingData
from .distill import Teacher
from .recipe import Recipe
from .steps import Base

__all__ = ["check_labels", "described", "identity", "named_classes", "standardised"]


def identity(data: TrainingData, base: Base | None, teacher: Teacher | None = None) -> str:
    """The samples that decide a run, the weights that it starts from and those that teach it, as JSON.

    A pool of weighted samples is known by its size and its base: drawn anew it differs in rounding.
    """
    facts: dict[str, object] = {"shape": list(data.shape)}
    if isinstance(data, ArrayData | ShardedData):
        facts |= {"count": len(data), "sha256": data.digest()}
        if data.labels is not None:
            facts["labels"] = digest_of({"labels": data.labels})
    elif isinstance(data, WeightedData):
        facts["count"] = len(data.log_weights)
    else:
        facts["sha256"] = digest_of({"weights": data.weights, "means": data.means, "covariances": data.covariances})
    if base is not None:
        facts["base"] = digest_of({name: tensor.cpu() for name, tensor in base.weights.items()})
    if teacher is not None:
        facts["teacher"] = teacher.digest
    return json.dumps(facts, sort_keys=True)


def described(data: TrainingData, seen: TrainingData) -> str:
    """A line of what a run trains on."""
    shape = list(data.shape)
    if isinstance(data, ArrayData | ShardedData):
        line = f"{len(data)} samples {shape} from {data.name}"
        if data.labels is not None:
            line += f", of {len(data.labels.unique())} classes"
    elif isinstance(data, WeightedData):
        line = f"{len(data.log_weights)} weighted samples {shape}, {data.name}"
    else:
        line = f"draws {shape} of {data.name}"
    if seen is data or not isinstance(seen.codec, VectorCodec):
        return line
    (least, most), (low, high) = ((min(row), max(row)) for row in (seen.codec.mean, seen.codec.scale))
    return (
        f"{line}, standardised by column for the network (means {least:.4g} to {most:.4g}, "
        f"deviations {low:.4g} to {high:.4g}); its samples are on the scale of the data"
    )


def standardised(data: TrainingData, codec: Codec | None) -> TrainingData:
    """The data that are trained on: vectors standardised by column, or as ``codec`` has them, of a model before.

    Raises :class:`DataError` for vectors that are all equal.
    """
    if not isinstance(data, ArrayData) or data.codec != VectorCodec():
        return data
    if bool((data.array == data.array[0]).all()):
        raise DataError(f"{data.name}: all of its {len(data)} samples are equal, there is nothing to learn")
    codec = VectorCodec.standardising(data.array) if codec is None else codec
    return replace(data, array=codec.encode(data.array), codec=codec)


def check_labels(recipe: Recipe, data: TrainingData) -> None:
    """Raise :class:`DataError` where data have not the classes of a recipe; warn of classes that none of them is of."""
    if not isinstance(data, ArrayData | ShardedData) or data.labels is None:
        raise DataError(f"{data.name}: has no labels, and recipe {recipe.name!r} is for {recipe.classes} classes")
    counts = torch.bincount(data.labels, minlength=recipe.classes)
    if len(counts) > recipe.classes:
        raise DataError(
            f"{data.name}: has labels up to {len(counts) - 1}, and recipe {recipe.name!r} is for 0 to "
            f"{recipe.classes - 1}; for all of them --set classes={len(counts)}"
        )
    names = named_classes(recipe, data)
    if recipe.class_names and data.class_names and recipe.class_names != data.class_names:
        raise DataError(
            f"{data.name}: its classes are {', '.join(data.class_names)}, and recipe {recipe.name!r} calls them "
            f"{', '.join(recipe.class_names)}"
        )
    if missing := [names[i] if names else str(i) for i in (counts == 0).nonzero().flatten().tolist()]:
        warnings.warn(
            f"{data.name}: no sample is of class {', '.join(missing)}, which will not be learned",
            DataWarning,
            stacklevel=3,
        )


def named_classes(recipe: Recipe, data: ArrayData | ShardedData) -> tuple[str, ...]:
    """What the classes are called: by the recipe, or by data that have as many."""
    return recipe.class_names or (data.class_names if len(data.class_names) == recipe.classes else ())
