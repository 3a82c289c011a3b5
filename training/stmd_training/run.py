"""A training run in a folder: resume, train, log, save, draw."""

from __future__ import annotations

import platform
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import final

import torch
from torch import Tensor

import stmd_sdk
from stmd_sdk.backends.torch import TorchNetwork
from stmd_sdk.codecs.codec import Codec, LatentCodec
from stmd_sdk.data.arrays import ArrayData, ShardedData
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import CheckpointError, DataError, TrainingError
from stmd_sdk.files import check_writable, written_whole
from stmd_sdk.images import grid
from stmd_sdk.locks import locked
from stmd_sdk.models.checkpoint import read_spec, save_model
from stmd_sdk.models.spec import Fact, ModelSpec
from stmd_sdk.runs.captured import CudaGraphs
from stmd_sdk.sampler import Sampler

from .batches import TrainingData, batches_of, resident
from .device_steps import Record, uncaptured
from .distill import Teacher
from .fitting import measured_spec
from .identity import check_labels, described, identity, named_classes, standardised
from .log import RunLog, RunProgress
from .processes import ALONE, Processes
from .recipe import Recipe
from .state import is_sealed_to_data, load_state, planned_steps, save_state
from .steps import Base, Step, TrainState, learning_rate
from .trainer import train

__all__ = ["Monitor", "TrainingRun"]

Monitor = Callable[[Sampler], dict[str, float]]
"""Figures of the averaged model, logged while training: distances, the kernel certificate."""

SAMPLES = 64


@final
@dataclass(frozen=True)
class TrainingRun:
    """One training run: a recipe, its data and the folder that holds everything it writes.

    It starts from ``base`` where there is one, and learns of a ``teacher`` if it has one. ``facts`` are figures about
    the data that the log and the model keep.
    On a GPU a step is one CUDA graph; ``eager`` launches its kernels one by one, with the same result.

    The folder gets ``model.safetensors`` (the averaged weights, usable at any time), ``state.safetensors`` (to resume
    from), ``log.jsonl`` and ``samples/``. Starting again in the same folder goes on from the last checkpoint, with
    the result of an uninterrupted run: bit for bit on a CPU with the same number of threads.
    """

    recipe: Recipe
    data: TrainingData
    folder: Path
    device: torch.device = torch.device("cpu")
    monitors: tuple[Monitor, ...] = ()
    processes: Processes = ALONE
    base: Base | None = None
    facts: Mapping[str, float] = field(default_factory=dict[str, float])
    eager: bool = False
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        if self.data.shape != self.recipe.shape:
            raise DataError(
                f"{self.data.name} has samples of shape {list(self.data.shape)}, "
                f"recipe {self.recipe.name!r} is for {list(self.recipe.shape)}"
            )
        if self.recipe.steps == 0 and self.base is not None:
            raise TrainingError(f"recipe {self.recipe.name!r} has no network, to which weights could be given")
        _check_codec(self.recipe.codec, self.data)
        if self.recipe.classes:
            check_labels(self.recipe, self.data)
        # What drawing samples needs is found to be missing now, and not at the first picture.
        self.data.codec.prepare(self.recipe.shape)
        check_writable(self.state_path)

    @property
    def model_path(self) -> Path:
        """The averaged model."""
        return self.folder / "model.safetensors"

    @property
    def state_path(self) -> Path:
        """The state that a run resumes from."""
        return self.folder / "state.safetensors"

    def __call__(
        self, *, restart: bool = False, progress: bool = True, say: Callable[[str], None] = lambda _: None
    ) -> Path:
        """Train to the last step and return the model's path; ``restart`` forgets what is in the folder.

        ``say`` is told what it trains on, and how it goes on with other ``steps`` than it was given before. A model
        without the state of its run is somebody's result: it is overwritten by ``restart`` alone.
        """
        with locked(self.state_path, self.folder) if self.processes.main else nullcontext():
            if not restart and self.model_path.exists() and not self.state_path.exists():
                raise TrainingError(
                    f"{self.folder} holds a model and no state to go on from: give another --out, or --restart"
                )
            if restart and self.processes.main:
                self.state_path.unlink(missing_ok=True)
            self.processes.wait()
            say(described(self.data, self.seen))
            if self.recipe.precision == "bfloat16" and self.device.type == "cpu" and _emulates_bfloat16():
                say("bfloat16 products are emulated on this CPU, several times slower: --set precision=float32")
            return self._train(progress, say)

    def _train(self, progress: bool, say: Callable[[str], None]) -> Path:
        spec = self.spec
        if self.recipe.steps == 0:
            if self.state_path.exists():
                raise TrainingError(f"{self.folder} holds a run with a network: give another --out, or --restart")
            if self.processes.main:
                self._save_model(spec, 0, {}, 0.0)
            return self.model_path
        state = TrainState.fresh(spec, self.recipe, self.device, self.base)
        seconds = self._resume(state, say)
        self.processes.check_same("done steps", state.step, self.device)
        data, recipe = resident(self.seen, self.device), self.recipe
        batches = batches_of(data, recipe.batch_size, recipe.seed, recipe.unlabelled_share)
        loss = recipe.loss(spec, state.loss_weights, None if self.teacher is None else self.teacher.denoiser)
        steps = train(state, loss, batches, recipe, self.processes, self._record())
        if not self.processes.main:
            deque(steps, maxlen=0)
            return self.model_path
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic() - seconds
        if state.step and not self._has_model(state.step):  # killed between the two
            self._save_model(spec, state.step, state.ema, seconds)
        with RunLog(self.folder, state.step) as log, RunProgress(self.recipe, state.step, progress) as show:
            if self.facts and state.step == 0:
                log.write(0, dict(self.facts))
            for step in steps:
                show(step)
                self._after(step, spec, state, log, time.monotonic() - started)
        return self.model_path

    def _record(self) -> Record | None:
        """How steps are launched on a GPU; those that other processes wait for are not recorded."""
        if self.device.type != "cuda":
            return None
        return uncaptured if self.eager or self.processes.count > 1 else CudaGraphs(self.device).record

    def _resume(self, state: TrainState, say: Callable[[str], None]) -> float:
        """Bring ``state`` to the folder's, if there is one, and return the seconds trained."""
        if not self.state_path.exists():
            return 0.0
        seconds = load_state(self.state_path, state, self.recipe, self._identity)
        planned, steps = planned_steps(self.state_path), self.recipe.steps
        if planned not in (None, steps):
            rate = learning_rate(self.recipe, state.step)
            say(
                f"{state.step} steps done of a run that was given {planned}: it goes on to {steps}. The learning rate "
                f"is that of step {state.step} of a run of {steps} steps ({self.recipe.decay} decay): {rate:.3g}"
            )
        return seconds

    @cached_property
    def seen(self) -> TrainingData:
        """The data as the network sees them; a run from before vectors were standardised goes on without."""
        if self.state_path.exists() and not is_sealed_to_data(self.state_path):
            return self.data
        before = self.base.spec if self.base is not None else self.teacher
        seen = standardised(self.data, None if before is None else before.codec)
        if self.teacher is not None and seen.codec != self.teacher.codec:
            name = self.teacher.name
            raise DataError(
                f"{seen.name}: holds what {seen.codec} made, and {name} knows what {self.teacher.codec} makes"
            )
        return seen

    @cached_property
    def _identity(self) -> str:
        return identity(self.data, self.base, self.teacher)

    def _has_model(self, step: int) -> bool:
        try:
            return read_spec(self.model_path).training.get("steps") == step
        except CheckpointError:
            return False

    def _save_model(self, spec: ModelSpec, step: int, weights: dict[str, Tensor], seconds: float) -> None:
        save_model(self.model_path, replace(spec, training=self._facts(step, seconds)), weights)

    @cached_property
    def spec(self) -> ModelSpec:
        """The spec of the model that is trained, with the data's codec (latents bring their VAE's digest).

        What else was measured of the data is the base's where there is one, or this run's own from before it was
        stopped: their weights generate that target, which another version of this project may fit otherwise.
        """
        recipe = replace(self.recipe, codec=self.seen.codec)
        if recipe.classes and isinstance(self.seen, ArrayData | ShardedData):
            recipe = replace(recipe, class_names=named_classes(recipe, self.seen))
        return measured_spec(recipe, self.seen, self._begun(recipe) if self.base is None else self.base.spec)

    def _begun(self, recipe: Recipe) -> ModelSpec | None:
        """The spec of this run's model so far, None before its first or where it is of another objective."""
        if not (self.state_path.exists() and self.model_path.exists()):
            return None
        try:
            spec = read_spec(self.model_path)
        except CheckpointError:  # its state makes it again
            return None
        return spec if spec.objective == recipe.objective else None

    def _after(self, step: Step, spec: ModelSpec, state: TrainState, log: RunLog, seconds: float) -> None:
        recipe, last = self.recipe, step.step == self.recipe.steps
        if last or step.step % recipe.log_every == 0:
            values = {
                "loss": step.loss,
                "gradient_norm": step.gradient_norm,
                "learning_rate": step.learning_rate,
            }
            log.write(step.step, {**values, "seconds": round(seconds, 2)})
        if last or step.step % recipe.sample_every == 0:
            sampler = self._sampler(spec, state)
            self._draw(sampler, step.step)
            for monitor in self.monitors:
                log.write(step.step, monitor(sampler))
        if last or step.step % recipe.checkpoint_every == 0:
            # The state first: a model without one could be somebody's result, and would be in the way.
            save_state(self.state_path, state, recipe, seconds, self._identity)
            self._save_model(spec, state.step, state.ema, seconds)

    def _sampler(self, spec: ModelSpec, state: TrainState) -> Sampler:
        network = spec.build_network()
        network.load_state_dict(state.ema)
        return Sampler(TorchNetwork(network.eval(), self.device, torch.float32), spec, self.device)

    def _draw(self, sampler: Sampler, step: int) -> None:
        """A picture of the one-step draws, where samples can be looked at."""
        shape = sampler.spec.shape
        if len(shape) == 3 or shape == (2,):
            # No more pictures than a step of training has: they fit memory, and DDPM's hundred steps stay short.
            n = min(SAMPLES, self.recipe.batch_size) if len(shape) == 3 else 16_384
            key = Noise.of(0, n, device=self.device)
            if (classes := sampler.spec.classes) is not None:
                key = key.labelled(torch.arange(n) * classes.count // n)
            picture = grid(sampler.sample(n, inference_steps=sampler.spec.objective.least_steps, seed=key))
            with written_whole(self.folder / "samples" / f"{step:07d}.png") as path:
                picture.save(path)

    def _facts(self, step: int, seconds: float) -> dict[str, Fact]:
        return {
            "recipe": self.recipe.name,
            "data": self.data.name,
            "steps": step,
            "batch_size": self.recipe.batch_size,
            "seed": self.recipe.seed,
            "seconds": round(seconds),
            "hardware": _hardware(self.device),
            "processes": self.processes.count,
            "torch": torch.__version__,
            "sdk": stmd_sdk.__version__,
            "commit": _commit(),
            **({} if self.teacher is None else {"teacher": self.teacher.name}),
            **self.facts,
        }


def _emulates_bfloat16() -> bool:
    """Whether this is an x86 CPU from before AVX-512, which is where bfloat16 units began."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def _check_codec(codec: Codec, data: TrainingData) -> None:
    """Latents must be those of the recipe's VAE, which decodes what is trained on them."""
    found, expected = data.codec, codec
    if isinstance(found, LatentCodec) and isinstance(codec, LatentCodec) and codec.sha256 is None:
        expected = replace(codec, sha256=found.sha256)
    if found != expected:
        raise DataError(
            f"{data.name}: holds what {found} made, and the recipe is for {expected}; cache latents anew with "
            "stmd-cache-latents --vae, or name their VAE with --set codec.vae=..."
        )


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}"


def _commit() -> str:
    """The commit of the checkout that runs, "unknown" for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
