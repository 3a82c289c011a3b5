"""Tilting: a model of p(x_0) becomes one of p(x_0) exp(-β E(x_0)), trained on its own samples, without data or teacher.

A pool x_0^i ~ p is weighed by w_i = exp(-β E(x_0^i)). Batches drawn by weight are draws of the tilted law up to the
pool's size (self-normalised importance sampling), and every loss of :mod:`.losses` learns the law of its batches.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stmd_sdk.checks import check_integer
from stmd_sdk.data.arrays import ArrayData, WeightedData
from stmd_sdk.diffusion.loop import Steps
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InferenceWarning, InvalidArgumentError, TrainingError
from stmd_sdk.files import brief
from stmd_sdk.inference.guidance import values_of
from stmd_sdk.inference.resampling import effective_share, log_mean, next_temperature
from stmd_sdk.models.checkpoint import resolve_model
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.pretrained.opening import load_pretrained
from stmd_sdk.progress import progress_bar
from stmd_sdk.runs.chunks import rows_at_once
from stmd_sdk.sampler import Sampler

from .recipe import Recipe, load_recipe, recipe_names
from .steps import Base

__all__ = ["Energy", "check_makes", "import_energy", "load_base", "tilt_facts", "tilted_pool", "tilted_recipe"]

Energy = Callable[[Any], Any]
"""A function of decoded samples [b, *d] to E, one number a sample [b]; +inf forbids a sample."""

LEAST_EFFECTIVE = 100
RARE = 0.1  # the effective share below which a run is warned of repeating itself
MADE = "objective", "shape", "network", "schedule", "classes"


def load_base(name_or_path: str) -> Base:
    """A model whose training can go on: a bundled name, a .safetensors file, or a folder that a pipeline saved."""
    path = resolve_model(name_or_path)
    if path.suffix != ".safetensors":
        raise InvalidArgumentError(f"{path}: an exported model cannot be trained; give its .safetensors file")
    spec, network = load_pretrained(path)
    return Base(spec, network.state_dict())


def import_energy(name: str) -> Energy:
    """The function of ``module:function``, imported from the working directory or whatever is installed."""
    module, colon, function = name.partition(":")
    if not (colon and module and function):
        raise InvalidArgumentError(f"--energy {name}: expected module:function, as in energies:right")
    here = str(Path.cwd())
    try:
        energy = getattr(_imported(module, here), function)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise InvalidArgumentError(f"--energy {name}: {module} imports {error.name}, which is absent") from error
        raise InvalidArgumentError(f"--energy {name}: no module {module} in {here}, nor installed") from error
    except AttributeError as error:
        raise InvalidArgumentError(f"--energy {name}: {module} has no function {function} ({error})") from error
    if not callable(energy):
        raise InvalidArgumentError(f"--energy {name}: {function} is no function")
    return energy


def _imported(module: str, here: str) -> ModuleType:
    """A module of the working directory or an installed one.

    The directory is searched for this module alone, before what is installed, and for what the module itself imports
    and nothing else has: at the head of ``sys.path`` any file there would be taken for the library of its name.
    """
    top = module.partition(".")[0]
    found, loaded = PathFinder.find_spec(top, [here]), sys.modules.get(top)
    if found is None:
        return importlib.import_module(module)
    if loaded is not None and getattr(loaded.__spec__, "origin", None) != found.origin:
        raise InvalidArgumentError(f"--energy: {top} is the name of a library that is in use; rename {found.origin}")
    sys.path.append(here)
    try:
        if loaded is None and found.loader is not None:
            sys.modules[top] = importlib.util.module_from_spec(found)
            found.loader.exec_module(sys.modules[top])
        return importlib.import_module(module)
    except BaseException:
        if loaded is None:
            sys.modules.pop(top, None)
        raise
    finally:
        sys.path.remove(here)


def check_makes(recipe: Recipe, spec: ModelSpec, what: str, advice: str) -> None:
    """Raise :class:`InvalidArgumentError` where ``recipe`` makes another network than that of ``spec``."""
    made = recipe.model_spec(spec.sigma_data, {}, spec.local_gaussians)
    differing = [field for field in MADE if getattr(made, field) != getattr(spec, field)]
    if differing:
        raise InvalidArgumentError(
            f"{what} makes another model than {spec.name} ({', '.join(differing)} differ): {advice}"
        )


def tilted_recipe(spec: ModelSpec, recipe: str | None, settings: tuple[str, ...], data: str) -> Recipe:
    """How the base was trained, from its own recipe unless one is named; ``data`` says what the tilted one sees.

    Raises :class:`InvalidArgumentError` for a recipe that makes another network than the base's, and for a base with
    classes, whose labels its own samples do not have.
    """
    if spec.classes is not None:
        raise InvalidArgumentError(f"{spec.name} has classes, and a pool of its samples has none: tilt a model without")
    name = recipe or str(spec.training.get("recipe", ""))
    if not name:
        raise InvalidArgumentError(f"{spec.name} does not say which recipe it was trained with: give it with --recipe")
    if recipe is None and name not in recipe_names():  # what a model says of itself never names a file to be read
        raise InvalidArgumentError(
            f"{spec.name} was trained with a recipe {brief(repr(name))} of its own: give its TOML file with --recipe"
        )
    found = load_recipe(name, settings)
    check_makes(found, spec, f"recipe {name!r}", "give the one that it was trained with, with --recipe")
    return replace(found, name=f"{spec.name}-tilted", data=data, codec=spec.codec)


def tilted_pool(
    sampler: Sampler,
    energy: Energy,
    noise: Noise,
    *,
    beta: float = 1.0,
    inference_steps: Steps = None,
    progress: bool = False,
) -> WeightedData:
    """A sample a key, as the network sees it, weighed by exp(-``beta`` E); costs N evaluations each.

    Raises :class:`TrainingError` where fewer than 100 are effective, and warns below a tenth of the pool.
    """
    if not 0 < beta < math.inf:
        raise InvalidArgumentError(f"beta must be positive and finite, got {beta}")
    check_integer("pool", len(noise), LEAST_EFFECTIVE)
    spec, rows = sampler.spec, rows_at_once(sampler.spec.shape, sampler.device)
    spec.codec.prepare(spec.shape)
    samples, values = list[Tensor](), list[Tensor]()
    with progress_bar("pool", math.ceil(len(noise) / rows), "batch", progress) as advance:
        for start in range(0, len(noise), rows):
            key = noise[start : start + rows]
            *_, (_, x_0, _) = sampler.trajectory(len(key), inference_steps=inference_steps, seed=key)
            samples.append(x_0.cpu())
            values.append(values_of(lambda x: _negative(energy(x)), spec.codec.decode(x_0), "energy's negative").cpu())
            advance()
    log_l = torch.cat(values)
    _check_effective(log_l, beta)
    return WeightedData(ArrayData(f"samples of {spec.name}", torch.cat(samples), spec.codec), beta * log_l)


def tilt_facts(data: WeightedData) -> dict[str, float]:
    """The pool's size and effective size, log Z = log E_p[exp(-β E)], and KL(tilted ‖ base) = E_W[log w] - log Z.

    With the normalised weights W that divergence is log n - H(W): at most log n, and too small where the pool is.
    """
    n = len(data.log_weights)
    weights = data.log_weights.double().softmax(dim=0)
    return {
        "pool": float(n),
        "pool_effective": n * effective_share(data.log_weights),
        "log_normaliser": log_mean(data.log_weights),
        "kl_to_base": math.log(n) - float(torch.special.entr(weights).sum()),
    }


def _negative(energy: Any) -> Any:
    if isinstance(energy, Tensor) and energy.dtype == torch.bool:
        raise InvalidArgumentError("the energy must return numbers, got booleans: as in torch.where(x > 0, 0.0, 1.0)")
    return -energy if isinstance(energy, Tensor) else energy


def _check_effective(log_l: Tensor, beta: float) -> None:
    """Raise or warn where too few samples carry the weight, with the β that would leave enough."""
    n, possible = len(log_l), int(log_l.isfinite().sum())
    effective = n * effective_share(beta * log_l) if possible else 0.0
    if effective >= max(LEAST_EFFECTIVE, RARE * n):
        return
    found = f"exp(-{beta:g} E) leaves {effective:.3g} effective samples of a pool of {n}"
    advice = "Take a larger --pool, or tilt in stages, each from the last one's model"
    if possible > LEAST_EFFECTIVE:
        keep = max(RARE, LEAST_EFFECTIVE / possible)
        gentle = next_temperature(torch.zeros_like(log_l), beta * log_l, 0.0, keep) * beta
        advice += f": --beta {gentle:.2g} leaves {keep:.0%} of those that E allows"
    if effective < LEAST_EFFECTIVE:
        raise TrainingError(f"{found}: too few to learn from, at least {LEAST_EFFECTIVE} are needed. {advice}")
    warnings.warn(f"{found}: the model will repeat them. {advice}", InferenceWarning, stacklevel=3)
