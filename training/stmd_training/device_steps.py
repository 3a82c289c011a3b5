"""Training steps on a GPU that the host launches and does not wait for: recorded as one CUDA graph, and replayed.

A step of a small network is some three thousand launches, which take longer to make than to run. Recorded, it is one.
What changes from step to step is written to the device before it: the batch, its labels, the key, the learning rate
and the average's weight. What a step finds is read where the run logs, draws or saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stmd_sdk.diffusion.device_philox import key_of
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.runs.captured import Work, capture_errors

from .batches import LOSS, Batches
from .losses import Loss
from .processes import ALONE, Processes
from .recipe import Recipe
from .steps import Step, TrainState, backward, clip, diverged, learning_rate

__all__ = ["Record", "device_steps", "uncaptured"]


Record = Callable[[Work], Work]
"""Runs a work once, and returns what repeats it."""


def uncaptured(work: Work) -> Work:
    """Records nothing: each step is launched kernel by kernel."""
    work()
    return work


@final
@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a step reads, at one place on the device."""

    x_0: Float[Tensor, "b *d"]
    labels: Int[Tensor, " b"] | None
    seed: Int[Tensor, ""]
    weight: Float[Tensor, ""]

    @classmethod
    def empty(cls, recipe: Recipe, device: torch.device) -> _Inputs:
        """Room for the inputs of ``recipe``."""
        rows = recipe.batch_size
        labels = torch.zeros(rows, dtype=torch.int64, device=device) if recipe.classes else None
        seed = torch.zeros((), dtype=torch.int64, device=device)
        return cls(torch.zeros(rows, *recipe.shape, device=device), labels, seed, torch.zeros((), device=device))

    def fill(self, state: TrainState, batches: Batches, recipe: Recipe) -> None:
        """Write those of the next step; nothing waits for the device."""
        self.x_0.copy_(batches(state.step), non_blocking=True)
        labels = batches.labels(state.step)
        if self.labels is not None and labels is not None:
            self.labels.copy_(labels, non_blocking=True)
        key = Noise.of(recipe.seed, 1).fold(LOSS).fold(state.step).key
        self.seed.copy_(key_of(key, self.seed.device))
        self.weight.fill_(1 - state.decay(recipe.ema))
        state.learn_at(learning_rate(recipe, state.step))


@final
@dataclass(frozen=True, eq=False)
class _Found:
    """What the steps found, on the device: the latest loss and gradient norm, and whether one was not finite.

    Nothing is learned from there on: weights and average are those before the step that ``figures`` are of.
    """

    figures: Float[Tensor, "2"]
    stopped: Float[Tensor, ""]
    good: Int[Tensor, ""]

    @classmethod
    def none(cls, device: torch.device) -> _Found:
        """Before the first step."""
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return cls(torch.zeros(2, device=device), torch.zeros((), device=device), zero)

    def add(self, loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> None:
        """A step's figures; one that is not finite stops."""
        figures = torch.stack([loss, norm])
        self.figures.copy_(torch.where(self.stopped > 0, self.figures, figures))
        self.stopped.copy_(torch.maximum(self.stopped, (~figures.isfinite().all()).float()))
        self.good.add_(1 - self.stopped.long())


@contextmanager
def _deterministic() -> Generator[None, None, None]:
    """Convolutions whose weight gradients have one order of summation: a run has the same result each time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def device_steps(
    state: TrainState,
    loss: Loss,
    batches: Batches,
    recipe: Recipe,
    record: Record,
    processes: Processes = ALONE,
) -> Iterator[Step]:
    """Advance ``state`` to the recipe's last step, yielding where the run logs, draws or saves.

    The optimizer must skip steps by ``found_inf``, as the fused one does. TrainingError, with the state of the last
    good step, once a loss or gradient was not finite; DeviceError where the step cannot be captured.
    """
    device = next(state.network.parameters()).device
    inputs, found = _Inputs.empty(recipe, device), _Found.none(device)
    indices, shares = torch.arange(recipe.batch_size, device=device), processes.shares(recipe.microbatches)
    state.optimizer.found_inf = found.stopped  # pyright: ignore[reportAttributeAccessIssue]  as a GradScaler does

    @_deterministic()
    def work() -> Tensor:
        state.optimizer.zero_grad(set_to_none=True)
        key = Noise(inputs.seed, indices, labels=inputs.labels)
        value = backward(loss, state, inputs.x_0, key, shares, recipe)
        norm = clip(value, state, recipe, processes)
        found.add(value, norm)
        state.optimizer.step()
        if processes.main:
            state.average(inputs.weight * (1 - found.stopped))
        return found.figures

    first, replay = state.step, None
    while state.step < recipe.steps:
        inputs.fill(state, batches, recipe)
        if replay is None:
            with capture_errors("a training step", "train with --eager"):
                replay = record(work)
        else:
            replay()
        state.step += 1
        if recipe.pauses_at(state.step):
            value, norm = found.figures.tolist()
            if not (math.isfinite(value) and math.isfinite(norm)):
                state.step = first + int(found.good)
                raise diverged(state.step + 1, value, norm)
            yield Step(state.step, value, norm, learning_rate(recipe, state.step - 1))
