"""What is measured of the data before training, once, and then part of the model: σ_d, and local Gaussians."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from stmd_sdk.data.arrays import ArrayData, ShardedData
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError, requires_extra
from stmd_sdk.mixtures.local import LocalGaussians
from stmd_sdk.models.spec import ModelSpec

from .batches import FIT, TrainingData
from .recipe import Recipe
from .steps import Base

__all__ = ["fit_local_gaussians", "measured_spec"]

SAMPLES, CLUSTERED = 200_000, 20_000
FLOOR = 1e-4  # of the data's mean square, added to each variance: a cluster may be flat


def measured_spec(recipe: Recipe, data: TrainingData, base: Base | None = None) -> ModelSpec:
    """The spec of the model that ``recipe`` trains on ``data``, with what was measured for ``base`` if there is one."""
    if base is not None:
        return recipe.model_spec(base.spec.sigma_data, {}, base.spec.local_gaussians)
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
    """Centres by k-means on the first 20,000 samples, then the mean and covariance of each cluster of all samples.

    Not a likelihood fit, and nobody says how many modes there are: more clusters than modes follow the density closely,
    in seconds. The same samples give the same mixture. InvalidArgumentError where a cluster has no more samples than
    they have coordinates: its Gaussian would be sure of what it cannot know.
    """
    with requires_extra("train"):
        from sklearn.cluster import KMeans  # noqa: PLC0415  takes a second to import
        from threadpoolctl import threadpool_limits  # noqa: PLC0415
    n, d = x.shape
    if n < clusters * (d + 1):
        least = clusters * (d + 1)
        raise InvalidArgumentError(f"clusters: {clusters} in {d} dimensions need at least {least} samples, not {n}")
    with threadpool_limits(1):  # whose sums else depend on the threads, in the last places
        means = KMeans(clusters, random_state=0).fit(x[:CLUSTERED].double().numpy())
        label = torch.from_numpy(means.predict(x.double().numpy())).long()
    parts = [x[label == k].double() for k in range(clusters)]
    if (fewest := min(map(len, parts))) <= d:
        raise InvalidArgumentError(f"clusters: one of {clusters} has {fewest} samples in {d} dimensions; take fewer")
    ridge = FLOOR * x.double().square().mean() * torch.eye(d, dtype=torch.float64)
    return LocalGaussians.of(
        torch.tensor([len(part) / n for part in parts], dtype=torch.float64),
        torch.stack([part.mean(dim=0) for part in parts]),
        torch.stack([torch.cov(part.T, correction=0) + ridge for part in parts]),
    )
