"""Recipes: everything that decides a training run, as TOML read into one dataclass."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stmd_sdk.codecs.codec import Codec, PixelCodec
from stmd_sdk.config import read_config, read_toml
from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.diffusion.denoiser import Denoiser
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.schedules import ScheduleConfig
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.files import brief, is_file, read_bytes
from stmd_sdk.mixtures.local import LocalGaussians
from stmd_sdk.models.objective import DDPM, STMD, MeanFlow, TrainedObjective, lifted
from stmd_sdk.models.spec import Fact, ModelSpec
from stmd_sdk.networks import PRESETS, NetworkConfig, NoNetworkConfig

from .learned_weights import LossWeights
from .losses import DDPMLoss, ErrorOf, FlowLoss, Loss, MeanFlowLoss, STMDLoss
from .scores import EnergyScore

__all__ = ["Recipe", "load_recipe", "recipe_names"]

RECIPES = Path(__file__).parent / "recipes"
MOST_BYTES = 2**20


@dataclass(frozen=True)
class Recipe:
    """A training run. Defaults are the paper's where it gives them.

    ``network`` is a preset's name or a table; ``data`` what ``load_data`` takes.
    ``clusters`` is how many Gaussians are fitted to the data for target ``mixture``. With network ``none`` and no
    ``steps`` the model is that fit.
    ``objective`` is the model's; TOML may spell its ``target``, ``output`` and ``bounded`` beside its name. A bounded
    one clamps draws to the codec's range, in the energy score and in the model that is trained.
    ``classes`` is how many classes the network takes labels of, 0 for none; a row's is hidden from it with probability
    ``unlabelled_share``, so that it learns to draw without one. ``class_names`` are those of data that have none.
    Where ``guided`` is above 1 the network takes a guidance w from 1 to that as an input, and learns to draw with it.
    ``learned_weights`` weighs both losses by their size at (τ, r, t), learned along the way.
    ``precision`` is that of the matrix products; weights, losses and their derivative along the path stay float32.
    ``microbatches`` is how many pieces each process takes its rows in: that many times less memory, the same gradients.
    """

    name: str
    data: str
    shape: tuple[int, ...]
    network: str | NetworkConfig
    codec: Codec = PixelCodec()
    schedule: ScheduleConfig = VPSchedule()
    objective: TrainedObjective = STMD()
    clusters: int = 0
    flow: FlowLoss = field(default_factory=FlowLoss)
    energy_score: EnergyScore = field(default_factory=EnergyScore)
    t_power: float = 1.0
    error_of: ErrorOf = "y"
    learned_weights: bool = False
    classes: int = 0
    class_names: tuple[str, ...] = ()
    unlabelled_share: float = 0.1
    guided: float = 1.0
    steps: int = 150_000
    batch_size: int = 64
    microbatches: int = 1
    learning_rate: float = 5e-4
    warmup_steps: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    ema: float = 0.9995
    clip_norm: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    checkpoint_every: int = 500
    sample_every: int = 2000
    log_every: int = 20

    def __post_init__(self) -> None:
        self._check_numbers()
        _ = self.conditioning  # raises for classes that are none
        plain = (), Recipe.unlabelled_share, Recipe.guided
        if not self.classes and (self.class_names, self.unlabelled_share, self.guided) != plain:
            raise InvalidArgumentError("class_names, unlabelled_share and guided: need classes, as in classes = 10")
        target = self.objective.target if isinstance(self.objective, STMD) else "x0"
        if (target == "mixture") != (self.clusters > 0):
            raise InvalidArgumentError(
                f"clusters: target 'mixture' needs some and no other has any, got {self.clusters} with {target!r}"
            )
        if target == "mixture" and self.error_of != "y":
            raise InvalidArgumentError("error_of: must be 'y' with target 'mixture'")
        self.energy_score.check_shape(self.shape)
        if isinstance(self.network, str) and self.network not in PRESETS:
            raise InvalidArgumentError(f"network: no preset {self.network!r}; known are {', '.join(PRESETS)}")
        none = isinstance(self.model_network, NoNetworkConfig)
        if none != (self.steps == 0) or (none and (target != "mixture" or self.classes)):
            raise InvalidArgumentError(
                "network: 'none' is for steps = 0, target 'mixture' and no classes, and nothing else has no steps"
            )
        plain = 0.0, Recipe.t_power, Recipe.error_of, Recipe.learned_weights, Recipe.guided
        ours = plain != (self.energy_score.weight, self.t_power, self.error_of, self.learned_weights, self.guided)
        if not isinstance(self.objective, STMD) and ours:
            raise InvalidArgumentError(
                "energy_score, t_power, error_of, learned_weights and guided: only objective 'stmd' has them, "
                f"not {self.objective.kind!r}"
            )

    def _check_numbers(self) -> None:
        positive = (
            "batch_size",
            "microbatches",
            "learning_rate",
            "clip_norm",
            "t_power",
            "checkpoint_every",
            "sample_every",
            "log_every",
        )
        for key in positive:
            if not 0 < getattr(self, key) < math.inf:
                raise InvalidArgumentError(f"{key}: must be positive, got {getattr(self, key)}")
        for key in ("steps", "warmup_steps", "seed"):
            if not 0 <= getattr(self, key) < math.inf:
                raise InvalidArgumentError(f"{key}: must be at least 0, got {getattr(self, key)}")
        for key in ("ema", "unlabelled_share"):
            if not 0 <= getattr(self, key) < 1:
                raise InvalidArgumentError(f"{key}: must lie in [0, 1), got {getattr(self, key)}")

    @property
    def conditioning(self) -> Classes | None:
        """The classes of the network, if it has any."""
        null = self.unlabelled_share > 0
        return Classes(self.classes, self.class_names, null, self.guided) if self.classes else None

    @property
    def model_network(self) -> NetworkConfig:
        """The network, where a preset's name may stand for it."""
        return PRESETS[self.network] if isinstance(self.network, str) else self.network

    def pauses_at(self, step: int) -> bool:
        """Whether something is logged, drawn or saved after ``step``."""
        pauses = self.log_every, self.sample_every, self.checkpoint_every, self.steps
        return any(step % every == 0 for every in pauses)

    def model_spec(
        self, sigma_data: float, training: dict[str, Fact], local_gaussians: LocalGaussians | None = None
    ) -> ModelSpec:
        """The spec of the model that this recipe trains, with what was measured of its data."""
        return ModelSpec(
            name=self.name,
            objective=self.objective,
            shape=self.shape,
            network=self.model_network,
            codec=self.codec,
            schedule=self.schedule,
            sigma_data=sigma_data,
            local_gaussians=local_gaussians,
            classes=self.conditioning,
            training=training,
        )

    def loss(
        self, spec: ModelSpec, weights: LossWeights | None, teacher: Callable[[Noise], Denoiser] | None = None
    ) -> Loss:
        """The training loss of the objective, with the ``weights`` of the run's ``TrainState``, if it learns them.

        ``teacher`` is of objective STMD alone.
        """
        match self.objective:
            case STMD() as objective:
                return STMDLoss(
                    self.schedule,
                    objective.flow_target(spec.measured),
                    objective.output,
                    self.flow,
                    self.energy_score,
                    self.t_power,
                    self.error_of,
                    spec.codec.bound if objective.bounded else None,
                    weights,
                    spec.classes,
                    teacher,
                )
            case MeanFlow(output):
                return MeanFlowLoss(output, self.flow, spec.classes)
            case DDPM():
                return DDPMLoss(self.schedule, spec.classes)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name_or_path: str, settings: tuple[str, ...] = ()) -> Recipe:
    """A recipe by name or path, with ``key=value`` overrides; ``base`` in a file names the recipe it changes."""
    values = _read_toml(name_or_path)
    for setting in settings:
        _override(values, setting)
    return read_config(Recipe, lifted(values))


def _read_toml(name_or_path: str, beside: Path = Path(), below: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = _recipe_path(name_or_path, beside)
    if path.resolve() in below:
        raise InvalidArgumentError(f"{path}: is its own base, through {' and '.join(file.name for file in below)}")
    values = read_toml(read_bytes(path, InvalidArgumentError, MOST_BYTES), str(path), InvalidArgumentError)
    values.setdefault("name", path.stem)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise InvalidArgumentError(f"{path}: base: expected the name or the path of a recipe")
    return _merge(_read_toml(base, path.parent, (*below, path.resolve())), values)


def _recipe_path(name_or_path: str, beside: Path) -> Path:
    """The file of a bundled name or a path; a base is looked for beside the file that names it."""
    if name_or_path in recipe_names():
        return RECIPES / f"{name_or_path}.toml"
    path = beside / os.path.expanduser(name_or_path)
    if not is_file(path, InvalidArgumentError):
        raise InvalidArgumentError(
            f"no recipe {brief(repr(name_or_path))}: neither the TOML file {brief(str(path))} nor one of "
            f"{', '.join(recipe_names())}"
        )
    return path


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise InvalidArgumentError(f"--set {brief(setting)}: expected key=value, as in --set steps=1000")
    try:
        # A line break would begin another key.
        value = read_toml(f"value = {' '.join(text.splitlines())}", "--set", InvalidArgumentError)["value"]
    except InvalidArgumentError:
        value = text.strip()
    *tables, last = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise InvalidArgumentError(f"--set {setting}: {table} is no table")
    values[last] = value
