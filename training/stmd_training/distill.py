"""Distillation: a denoiser that is known already teaches a one-step model, in place of the noise of the data.

The flow loss regresses to v = ε - y, whose mean given what the network sees is the exact velocity of the conditional
flow; that velocity is known of any denoiser (GLASS identity, :class:`GlassVelocity`), so it takes v's place, and the
variance of v is gone. The energy score stays. x_0 comes of data, or of a pool of the teacher's own samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch

from stmd_sdk.backends.torch import TorchNetwork
from stmd_sdk.checks import check_integer
from stmd_sdk.codecs.codec import Codec
from stmd_sdk.data.arrays import ArrayData, WeightedData
from stmd_sdk.diffusion.denoiser import Denoiser
from stmd_sdk.diffusion.loop import Steps
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.models.objective import STMD
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.models.tensors import digest_of
from stmd_sdk.progress import progress_bar
from stmd_sdk.runs.chunks import rows_at_once
from stmd_sdk.sampler import Sampler

from .recipe import Recipe, load_recipe

__all__ = ["Teacher", "distilled_recipe", "own_samples", "teacher_of"]


@final
@dataclass(frozen=True, eq=False)
class Teacher:
    """A denoiser E[x_0 | x_0 + σ n = x] of the classes of a key's rows, of x_0 as ``codec`` makes it.

    ``digest`` is that of its weights: a run goes on with the teacher that it began with.
    """

    name: str
    codec: Codec
    denoiser: Callable[[Noise], Denoiser]
    digest: str


def teacher_of(sampler: Sampler) -> Teacher:
    """The teacher that a model is; raises :class:`InvalidArgumentError` for one that has no denoiser."""
    _ = sampler.denoiser
    spec, network = sampler.spec, sampler.network
    if not isinstance(network, TorchNetwork):
        raise InvalidArgumentError(f"{spec.name}: an exported model cannot teach; give its .safetensors file")
    digest = digest_of({name: tensor.cpu() for name, tensor in network.module.state_dict().items()})
    return Teacher(spec.name, spec.codec, lambda noise: spec.build_denoiser(network, noise), digest)


def distilled_recipe(spec: ModelSpec, recipe: str, settings: tuple[str, ...], data: str | None) -> Recipe:
    """The recipe of what the model of ``spec`` teaches; without ``data`` it sees a pool of that model's samples.

    Raises :class:`InvalidArgumentError` where the two do not go together.
    """
    found = load_recipe(recipe, settings)
    if not isinstance(found.objective, STMD) or found.objective.target == "mixture":
        raise InvalidArgumentError(
            f"recipe {recipe!r} has no flow to teach: its objective must be 'stmd', of target 'x0' or 'residual'"
        )
    if found.shape != spec.shape:
        raise InvalidArgumentError(
            f"recipe {recipe!r} is for samples of shape {list(found.shape)}, and {spec.name} knows {list(spec.shape)}"
        )
    known = 0 if spec.classes is None else spec.classes.count
    if found.classes not in (0, known):
        raise InvalidArgumentError(f"recipe {recipe!r} is for {found.classes} classes, and {spec.name} knows {known}")
    if found.classes and data is None:
        raise InvalidArgumentError(f"recipe {recipe!r} has classes, and the samples of a pool have none: give --data")
    found = replace(found, name=f"{found.name}-distilled")
    return replace(found, data=f"samples of {spec.name}", codec=spec.codec) if data is None else found


def own_samples(
    sampler: Sampler, noise: Noise, *, inference_steps: Steps = None, progress: bool = False
) -> WeightedData:
    """A pool of a model's samples, one a key, as its network sees them, all of one weight; N evaluations each."""
    spec, rows = sampler.spec, rows_at_once(sampler.spec.shape, sampler.device)
    check_integer("pool", len(noise), 1)
    drawn = list[torch.Tensor]()
    with progress_bar("pool", math.ceil(len(noise) / rows), "batch", progress) as advance:
        for start in range(0, len(noise), rows):
            key = noise[start : start + rows]
            *_, (_, x_0, _) = sampler.trajectory(len(key), inference_steps=inference_steps, seed=key)
            drawn.append(x_0.cpu())
            advance()
    pool = torch.cat(drawn)
    return WeightedData(ArrayData(f"samples of {spec.name}", pool, spec.codec), torch.zeros(len(pool)))
