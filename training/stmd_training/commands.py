"""The work of the commands: a recipe's run and a tilted model's, latents, a classifier."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch
import typer

from stmd_sdk.backends.devices import resolve_device
from stmd_sdk.checks import check_integer
from stmd_sdk.codecs.codec import LatentCodec
from stmd_sdk.console import say
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.data.labels import load_labelled_data, load_labels
from stmd_sdk.data.latents import cache_latents
from stmd_sdk.data.load import load_data
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import DataError
from stmd_sdk.files import check_writable
from stmd_sdk.sampler import Sampler

from .batches import POOL, TrainingData
from .classifier import accuracy, save_classifier, train_classifier
from .distill import distilled_recipe, own_samples, teacher_of
from .processes import joined_processes
from .recipe import Recipe, load_recipe
from .run import TrainingRun
from .smoke import smoke_test
from .tilt import check_makes, import_energy, load_base, tilt_facts, tilted_pool, tilted_recipe

__all__ = ["Running", "cache_pictures", "fit_classifier", "run_distillation", "run_recipe", "run_tilt"]


@final
@dataclass(frozen=True)
class Running:
    """How a run is run: options of both commands."""

    out: Path | None
    restart: bool
    settings: tuple[str, ...]
    device: str | None
    threads: int | None
    eager: bool
    quiet: bool

    def take_threads(self) -> None:
        """Compute on as many CPU threads as were asked for."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)


def run_tilt(
    init: str, energy: str, recipe: str | None, pool: int, steps: int | None, beta: float, running: Running
) -> None:
    """``stmd-train tilt``."""
    running.take_threads()
    base, function = load_base(init), import_energy(energy)
    source = f"{init} tilted by {beta:g} {energy}: {pool} samples, {steps or base.spec.default_inference_steps} steps"
    plan = tilted_recipe(base.spec, recipe, running.settings, source)
    folder = running.out or Path("runs") / plan.name
    check_writable(folder / "model.safetensors")
    with joined_processes(running.device) as (processes, own):
        sampler, noise = Sampler.from_pretrained(init, device=own), Noise.of(plan.seed, pool).fold(POOL)
        shown = not running.quiet and processes.main
        data = tilted_pool(sampler, function, noise, beta=beta, inference_steps=steps, progress=shown)
        facts = tilt_facts(data)
        if processes.main:
            say(", ".join(f"{name} {value:.6g}" for name, value in facts.items()))
        run = TrainingRun(
            plan, data, folder, sampler.device, processes=processes, base=base, facts=facts, eager=running.eager
        )
        path = _path_of(run, running)
    if processes.main:
        say(f"{plan.steps} steps done. Draw from it: stmd sample --model {path}")


def run_distillation(
    recipe: str, teacher: str, source: str | None, pool: int, steps: int | None, running: Running
) -> None:
    """``stmd-train distill``."""
    running.take_threads()
    with joined_processes(running.device) as (processes, own):
        sampler, facts = Sampler.from_pretrained(teacher, device=own), dict[str, float]()
        plan = distilled_recipe(sampler.spec, recipe, running.settings, source)
        folder = running.out or Path("runs") / plan.name
        check_writable(folder / "model.safetensors")
        known = teacher_of(sampler)
        if source is None:
            noise = Noise.of(plan.seed, check_integer("pool", pool, 1)).fold(POOL)
            shown = not running.quiet and processes.main
            samples, facts["pool"] = own_samples(sampler, noise, inference_steps=steps, progress=shown), float(pool)
        else:
            samples = _data(plan, source)
        run = TrainingRun(
            plan,
            samples,
            folder,
            sampler.device,
            processes=processes,
            facts=facts,
            eager=running.eager,
            teacher=known,
        )
        path = _path_of(run, running)
    if processes.main:
        say(f"{plan.steps} steps done. Draw from it: stmd sample --model {path}")


def run_recipe(name: str, source: str | None, init: str | None, running: Running, smoke: bool) -> None:
    """``stmd-train RECIPE``."""
    running.take_threads()
    recipe, base, out = load_recipe(name, running.settings), None, running.out
    if init is not None:
        base = load_base(init)
        check_makes(recipe, base.spec, f"recipe {name!r}", "give the recipe that it was trained with")
    with joined_processes(running.device) as (processes, own):
        if smoke:
            folder = (out or Path("runs")) / f"{recipe.name}-smoke"  # of its own: it begins anew each time
            # Each process makes its own synthetic data: equal ones.
            recipe, samples = smoke_test(recipe, folder / f"process-{processes.rank}")
        else:
            folder, samples = out or Path("runs") / recipe.name, _data(recipe, source or recipe.data)
        on = resolve_device(own)
        run = TrainingRun(recipe, samples, folder, on, processes=processes, base=base, eager=running.eager)
        path = _path_of(run, replace(running, restart=running.restart or smoke))
    if processes.main:
        say(f"{recipe.steps} steps done. Draw from it: stmd sample --model {path}")


def _data(recipe: Recipe, source: str) -> TrainingData:
    """What a recipe trains on, with labels where it has classes."""
    load = load_labelled_data if recipe.classes else load_data
    return load(os.path.expanduser(source))


def _path_of(run: TrainingRun, running: Running) -> Path:
    """The model of a run that has come to its end."""

    def tell(line: str) -> None:
        if run.processes.main:
            say(line)

    try:
        return run(restart=running.restart, progress=not running.quiet and run.processes.main, say=tell)
    except KeyboardInterrupt:
        tell(f"Interrupted. The same command goes on from the last checkpoint in {run.folder}.")
        raise typer.Exit(130) from None


def cache_pictures(
    source: str,
    out: Path,
    vae: str | None,
    size: int,
    split: str,
    seed: int,
    device: str | None,
    report: Callable[[int], None],
) -> int:
    """``stmd-cache-latents``; ``report`` is told how many are done."""
    codec = LatentCodec() if vae is None else LatentCodec(vae=vae)
    on = resolve_device(device)
    return cache_latents(source, out, codec, size, split=split, seed=seed, device=on, report=report)


def fit_classifier(data: str, out: Path, epochs: int, seed: int) -> str:
    """``stmd-train-classifier``; what came of it, for the user."""
    check_writable(out)
    images, held_out = load_data(data), load_data(data, split="test")
    if not isinstance(images, ArrayData) or not isinstance(held_out, ArrayData):
        raise DataError(f"{data}: has no labels to train on")
    labels, held_out_labels = load_labels(data), load_labels(data, split="test")
    facts, classifier = train_classifier(images, labels, epochs=epochs, seed=seed, progress=True)
    classifier = classifier.half().float()  # as it will be read
    facts = replace(facts, accuracy=accuracy(classifier, held_out, held_out_labels))
    save_classifier(out, facts, classifier)
    return f"{100 * facts.accuracy:.2f} % of {len(held_out)} test images, {epochs} epochs: {out}"
