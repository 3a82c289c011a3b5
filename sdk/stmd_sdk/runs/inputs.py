"""What a user passes to a sampler and gets from it, checked once, at the public border."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ..checks import check_integer
from ..diffusion.classes import UNLABELLED, Classes
from ..diffusion.labelled import Labels, check_guidance
from ..diffusion.loop import times_of_rows
from ..diffusion.noise import Noise
from ..diffusion.philox import fresh_seed
from ..errors import InferenceError, InvalidArgumentError
from ..models.spec import ModelSpec

__all__ = ["BUCKET", "check_samples", "earlier", "noise_of", "state_of", "whole_buckets"]

BUCKET = 16  # rows of a batch-invariant evaluation
logger = logging.getLogger("stmd_sdk")


def noise_of(
    seed: int | Noise | None,
    n: int,
    spec: ModelSpec,
    device: torch.device,
    labels: Labels = None,
    guidance: float = 1.0,
    *,
    first: int = 0,
    given: bool = True,
) -> Noise:
    """The key of samples ``first`` to ``first + n - 1`` and of their labels; without a seed a fresh one, reported.

    Raises :class:`InvalidArgumentError` for labels, or guidance towards them, that the model does not have; and, where
    samples are ``given`` a state or a measurement, which makes some classes likelier, for classes at random.
    """
    if given and spec.classes is not None and spec.classes.at_random(labels):
        raise InvalidArgumentError(
            "labels='random' goes with samples from noise alone: what is given makes some classes likelier. "
            "Leave labels out to draw from all classes together"
        )
    if isinstance(seed, Noise):
        if len(seed) != check_integer("n", n, 1):
            raise InvalidArgumentError(f"the given Noise is the key of {len(seed)} samples, not {n}")
        if first != 0:
            raise InvalidArgumentError("first goes with an integer seed; a Noise names its samples itself")
        key = seed.to(device)
    else:
        if seed is None:
            seed = fresh_seed()
            logger.info("drawing with fresh seed %d", seed)
        key = Noise.of(seed, n, first=first, device=device)
    key = _labelled(key, labels, spec.classes)
    check_guidance(guidance, spec.classes, key)
    return key


def _labelled(noise: Noise, labels: Labels, classes: Classes | None) -> Noise:
    """The key with these labels, or else its own."""
    if labels is None and noise.labels is None:
        return noise
    if classes is None:
        raise InvalidArgumentError("labels: the model has no classes, it was trained without")
    if labels is not None:
        return noise.labelled(torch.tensor(classes.numbers(labels, cast(int, noise.key), noise.indices.cpu().numpy())))
    if noise.labels is not None and int(noise.labels.max()) >= classes.count:
        raise InvalidArgumentError(f"labels must lie in 0 to {classes.count - 1}, got {int(noise.labels.max())}")
    return noise


def whole_buckets(noise: Noise) -> tuple[Noise, slice]:
    """The key of all samples of the buckets that consecutive samples lie in, and where these are among them."""
    first, n = int(noise.indices[0]), len(noise)
    before, after = first % BUCKET, -(first + n) % BUCKET
    indices = torch.arange(first - before, first + n + after, device=noise.indices.device)
    labels = noise.labels
    if labels is not None:
        labels = torch.nn.functional.pad(labels, (before, after), value=UNLABELLED)
    return replace(noise, indices=indices, labels=labels), slice(before, before + n)


def state_of(x_t: Any, t: Any, spec: ModelSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """A finite float32 state [b, *shape] on the device and its times [b] in (0, 1], or an InvalidArgumentError."""
    if not isinstance(x_t, Tensor):
        raise InvalidArgumentError(f"x_t must be a torch.Tensor, got a {type(x_t).__name__}")
    if x_t.shape[1:] != spec.shape or len(x_t) == 0:
        shape = ", ".join(map(str, spec.shape))
        raise InvalidArgumentError(f"x_t must have shape [b, {shape}] with b >= 1, got {list(x_t.shape)}")
    if x_t.dtype != torch.float32:
        raise InvalidArgumentError(f"x_t must be float32, got {x_t.dtype}")
    if x_t.device.type != device.type:
        raise InvalidArgumentError(f"x_t is on {x_t.device}, the sampler on {device}")
    if not bool(x_t.isfinite().all()):
        raise InvalidArgumentError("x_t has values that are not finite")
    t = times_of_rows(t, len(x_t), device)
    if not bool(((t > 0) & (t <= 1)).all()):
        raise InvalidArgumentError("t must lie in (0, 1]")
    spec.objective.check_times(t)
    return x_t, t


def earlier(s: Any, t: Tensor) -> Tensor:
    """The times [b] in [0, t] that transitions from ``t`` [b] end at."""
    s = times_of_rows(s, len(t), t.device)
    if not bool(((s >= 0) & (s <= t)).all()):
        raise InvalidArgumentError("s must lie in [0, t]")
    return s


def check_samples(samples: Tensor) -> Tensor:
    """The samples, all of them finite: their extremes tell, in one pass."""
    if not bool(torch.stack(torch.aminmax(samples)).isfinite().all()):
        bad = int((~samples.flatten(1).isfinite().all(dim=1)).sum())
        raise InferenceError(
            f"{bad} of {len(samples)} samples have values that are not finite: the model, or what guides it, gives them"
        )
    return samples
