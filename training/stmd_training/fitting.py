"""What is measured of the data before training, once, and then part of the model: σ_d, and local Gaussians."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from stmd_sdk.data.arrays import ArrayData, ShardedData
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError, requires_extra
from stmd_sdk.mixtures.local import LocalGaussians
from stmd_sdk.models.spec import ModelSpec

from .batches import FIT, TrainingData
from .likelihood import Fit, ascend, maximised
from .recipe import Recipe

__all__ = ["fit_local_gaussians", "measured_spec"]

SAMPLES, CLUSTERED = 200_000, 20_000
HELD_OUT, GAIN = 5, 1e-3  # a fifth of the samples, nats a sample
FLOOR = 1e-4  # of the data's mean square, the least variance: a cluster may be flat


def measured_spec(recipe: Recipe, data: TrainingData, before: ModelSpec | None = None) -> ModelSpec:
    """The spec of the model that ``recipe`` trains on ``data``, with what was measured for an earlier one if given."""
    if before is not None:
        return recipe.model_spec(before.sigma_data, {}, before.local_gaussians)
    gaussians = None
    if recipe.clusters:
        if len(data.shape) != 1:
            raise InvalidArgumentError(
                f"target: 'mixture' is for vectors; {data.name} has samples of shape {list(data.shape)}"
            )
        gaussians = fit_local_gaussians(_samples(data, recipe.seed), recipe.clusters)
    return recipe.model_spec(data.root_mean_square(), {}, gaussians)


def _samples(data: TrainingData, seed: int) -> Float[Tensor, "n d"]:
    if not isinstance(data, ArrayData | ShardedData):
        return data.sample(Noise.of(seed, SAMPLES).fold(FIT))
    # In random order: the file's may be that of classes.
    return data[Noise.of(seed, len(data)).fold(FIT).uniform().argsort()[:SAMPLES]]


def fit_local_gaussians(x: Float[Tensor, "n d"], clusters: int) -> LocalGaussians:
    """The mixture of ``clusters`` Gaussians that makes samples likeliest which it was not fitted to; rows at random.

    Expectation maximisation (:mod:`.likelihood`) from the clusters of k-means on the first 20,000 samples, in as many
    steps as still raise the likelihood of a last fifth that they do not see; then as many steps on all samples. Where
    no step helps, these are the clusters themselves. Nobody says how many modes there are: more clusters than modes
    follow the density closely. The same samples give the same mixture. InvalidArgumentError for samples that are not
    finite, and where a cluster has no more samples than they have coordinates: its Gaussian would be sure of what it
    cannot know.
    """
    n, d = x.shape
    if not bool(x.isfinite().all()):
        raise InvalidArgumentError("clusters: the samples have values that are NaN or infinite")
    if n < clusters * (d + 1):
        least = clusters * (d + 1)
        raise InvalidArgumentError(f"clusters: {clusters} in {d} dimensions need at least {least} samples, not {n}")
    floor = FLOOR * float(x.double().square().mean())
    with _one_thread():  # sums depend on their number, in the last places
        shares, seen = _clustered(x, clusters), n - max(1, n // HELD_OUT)
        steps = _steps(x[:seen], x[seen:], _started(x[:seen], shares[:seen], floor), floor)
        fit = next(islice(ascend(x, _started(x, shares, floor), floor), steps, None))
    return LocalGaussians.of(fit.weights, fit.means, fit.covariances)


@contextmanager
def _one_thread() -> Generator[None]:
    with requires_extra("train"):
        from threadpoolctl import threadpool_limits  # noqa: PLC0415
    threads = torch.get_num_threads()
    try:
        with threadpool_limits(1):
            torch.set_num_threads(1)
            yield
    finally:
        torch.set_num_threads(threads)


def _clustered(x: Float[Tensor, "n d"], clusters: int) -> Float[Tensor, "n k"]:
    """Which cluster each sample is of, as ones among zeros."""
    with requires_extra("train"):
        from sklearn.cluster import KMeans  # noqa: PLC0415  takes a second to import
    means = KMeans(clusters, random_state=0).fit(x[:CLUSTERED].double().numpy())
    label = torch.from_numpy(means.predict(x.double().numpy())).long()
    return torch.nn.functional.one_hot(label, clusters).float()


def _started(x: Float[Tensor, "n d"], shares: Float[Tensor, "n k"], floor: float) -> Fit:
    """The Gaussians of the clusters."""
    clusters, d = shares.shape[1], x.shape[1]
    if (fewest := int(shares.sum(dim=0).min())) <= d:
        raise InvalidArgumentError(
            f"clusters: one of {clusters} has {fewest} of {len(x)} samples in {d} dimensions; take fewer"
        )
    return maximised(x, shares, floor)


def _steps(seen: Float[Tensor, "n d"], held_out: Float[Tensor, "m d"], fit: Fit, floor: float) -> int:
    """How many steps on ``seen`` raise the mean log-likelihood of ``held_out``, each by at least ``GAIN``."""
    best = -math.inf
    for steps, one in enumerate(ascend(seen, fit, floor)):
        if not (value := float(one.log_density(held_out).mean())) > best + GAIN:
            return steps - 1
        best = value
    raise AssertionError("an ascent has no end of its own")
