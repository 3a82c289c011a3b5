"""The training loop: a generator of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stmd_sdk.diffusion.noise import Noise

from .batches import LOSS, Batches
from .device_steps import Record, device_steps
from .losses import Loss
from .processes import ALONE, Processes
from .recipe import Recipe
from .steps import Step, TrainState, backward, clip, diverged, learning_rate

__all__ = ["train"]


def train(
    state: TrainState,
    loss: Loss,
    batches: Batches,
    recipe: Recipe,
    processes: Processes = ALONE,
    record: Record | None = None,
) -> Iterator[Step]:
    """Advance ``state`` to the recipe's last step, yielding after each one, or where it pauses with ``record``.

    Logging, saving and monitoring belong to the caller. A loss or gradient that is not finite raises TrainingError
    before it touches the weights. Each process and micro-batch takes its rows of the batch, with the keys that they
    have in any case: how many there are changes the rounding alone. The main process alone has the average.
    """
    processes.check_batch(recipe.batch_size, recipe.flow.times.moving_rows(recipe.batch_size), recipe.microbatches)
    if record is not None:
        yield from device_steps(state, loss, batches, recipe, record, processes)
        return
    device = next(state.network.parameters()).device
    noise = Noise.of(recipe.seed, recipe.batch_size, device=device).fold(LOSS)
    shares = processes.shares(recipe.microbatches)
    while state.step < recipe.steps:
        rate = learning_rate(recipe, state.step)
        state.learn_at(rate)
        state.optimizer.zero_grad(set_to_none=True)
        labels, key = batches.labels(state.step), noise.fold(state.step)
        if labels is not None:
            key = key.labelled(labels)
        value = backward(loss, state, batches(state.step), key, shares, recipe)
        norm = clip(value, state, recipe, processes)
        if not (math.isfinite(value.item()) and math.isfinite(norm.item())):
            raise diverged(state.step + 1, value.item(), norm.item())
        state.optimizer.step()
        if processes.main:
            state.average(1 - state.decay(recipe.ema))
        state.step += 1
        yield Step(state.step, value.item(), norm.item(), rate)
