"""What a run trains on, as a person reads it and as a state remembers it."""

from __future__ import annotations

import json
from dataclasses import replace

from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.arrays import ArrayData, ShardedData, WeightedData
from stmd_sdk.errors import DataError
from stmd_sdk.models.tensors import digest_of

from .batches import TrainingData
from .trainer import Base

__all__ = ["described", "identity", "standardised"]


def identity(data: TrainingData, base: Base | None) -> str:
    """The samples that decide a run, and the weights that it starts from, as JSON.

    A pool of weighted samples is known by its size and its base: drawn anew it differs in rounding.
    """
    facts: dict[str, object] = {"shape": list(data.shape)}
    if isinstance(data, ArrayData | ShardedData):
        facts |= {"count": len(data), "sha256": data.digest()}
    elif isinstance(data, WeightedData):
        facts["count"] = len(data.log_weights)
    else:
        facts["sha256"] = digest_of({"weights": data.weights, "means": data.means, "covariances": data.covariances})
    if base is not None:
        facts["base"] = digest_of({name: tensor.cpu() for name, tensor in base.weights.items()})
    return json.dumps(facts, sort_keys=True)


def described(data: TrainingData, seen: TrainingData) -> str:
    """A line of what a run trains on."""
    shape = list(data.shape)
    if isinstance(data, ArrayData | ShardedData):
        line = f"{len(data)} samples {shape} from {data.name}"
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


def standardised(data: TrainingData, base: Base | None) -> TrainingData:
    """The data that are trained on: vectors standardised by column, or as ``base`` was trained on them.

    Raises :class:`DataError` for vectors that are all equal.
    """
    if not isinstance(data, ArrayData) or data.codec != VectorCodec():
        return data
    if bool((data.array == data.array[0]).all()):
        raise DataError(f"{data.name}: all of its {len(data)} samples are equal, there is nothing to learn")
    codec = base.spec.codec if base is not None else VectorCodec.standardising(data.array)
    return replace(data, array=codec.encode(data.array), codec=codec)
