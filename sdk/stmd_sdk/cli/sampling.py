"""Models opened with PyTorch, and what they draw: the work of the commands that need it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..diffusion.classes import PlainLabels
from ..diffusion.philox import fresh_seed
from ..errors import InvalidArgumentError
from ..files import check_writable, written_whole
from ..images import grid
from ..models.checkpoint import resolve_model
from ..pretrained.opening import is_of_diffusers
from ..runs.card import publish_model
from ..sampler import Sampler
from .drawer import Drawer, asked_class, model_digest, unchanged_digest

__all__ = ["draw_trajectory", "open_sampler", "push_file", "sampler_drawer"]


def open_sampler(model: str, device: str | None) -> Sampler:
    """Open a model. Each process of torchrun takes the GPU of its LOCAL_RANK, where there are GPUs."""
    if device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return Sampler.from_pretrained(model, device=device)


def sampler_drawer(
    model: str,
    steps: int | list[float] | None,
    mean_flow_steps: int | None,
    guidance: float,
    device: str | None,
    batch_size: int | None,
    batch_invariant: bool,
    progress: bool,
) -> Drawer:
    """A model's sampling loop as a drawer."""
    file = resolve_model(model)
    before = model_digest(file)
    sampler = open_sampler(str(file), device)  # that very file, should the Hub have another by now

    def draw(seed: int, first: int, n: int, labels: PlainLabels) -> NDArray[np.float32]:
        drawn = sampler.sample(
            n,
            inference_steps=steps,
            mean_flow_steps=mean_flow_steps,
            labels=labels,
            guidance=guidance,
            seed=seed,
            first=first,
            batch_size=batch_size,
            batch_invariant=batch_invariant,
            progress=progress,
        )
        return drawn.cpu().numpy()

    spec, facts = sampler.spec, _described(sampler, steps, mean_flow_steps)
    facts += "" if guidance == 1 else f", guidance {guidance:g}"
    facts += ", batch-invariant" if batch_invariant else ""
    digest = unchanged_digest(file, before)
    return Drawer(draw, spec.name, spec.shape, facts, str(sampler.device), digest, spec.classes)


def draw_trajectory(
    model: str,
    device: str | None,
    steps: int | list[float] | None,
    mean_flow_steps: int | None,
    label: str | None,
    guidance: float,
    seed: int | None,
    first: int,
    n: int,
    out: Path,
) -> Iterator[str]:
    """Draw the path of ``n`` samples into a picture; lines for the user, as it goes."""
    check_writable(out)
    sampler, seed = open_sampler(model, device), fresh_seed() if seed is None else seed
    if len(sampler.spec.shape) != 3:
        raise InvalidArgumentError(f"trajectories of {sampler.spec.name} are no images; use Sampler.trajectory")
    of, words = (None, "") if label is None else asked_class(label, sampler.spec.classes, sampler.spec.name)
    rows: list[Tensor] = []
    for t, x_t, x_0 in sampler.trajectory(
        n,
        inference_steps=steps,
        mean_flow_steps=mean_flow_steps,
        labels=of,
        guidance=guidance,
        seed=seed,
        first=first,
    ):
        yield f"t = {t:.3f}"
        rows += [sampler.spec.codec.decode(x_0), sampler.spec.codec.decode(x_t)]
    with written_whole(out) as path:
        grid(torch.cat(rows[:-1]), columns=n).save(path)
    facts = _described(sampler, steps, mean_flow_steps) + words
    yield f"{n} trajectories of {sampler.spec.name}: {facts}, seed {seed}, written to {out}"


def push_file(model: str, name: str, certificate: Path | None, private: bool) -> str:
    """Put a model's file on the Hub as it is, or a pretrained one as a file of this project's; the commit's address."""
    file = resolve_model(model)
    sampler = open_sampler(str(file), None)
    if is_of_diffusers(file):
        return sampler.push_to_hub(name, certificate=certificate, private=private)
    return publish_model(name, file, sampler.spec, sampler.sample, certificate, private)


def _described(sampler: Sampler, steps: int | list[float] | None, mean_flow_steps: int | None) -> str:
    """The steps of a run in words."""
    count = len(steps) - 1 if isinstance(steps, list) else steps or sampler.spec.default_inference_steps
    times = f" at {', '.join(map(str, steps))}" if isinstance(steps, list) else ""
    return f"{count} inference steps{times} x {sampler.spec.flow_steps(mean_flow_steps)} Mean Flow steps"
