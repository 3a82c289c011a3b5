"""The training loop: a generator of steps, and the state that it advances."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stmd_sdk.diffusion.network import Network
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import TrainingError
from stmd_sdk.models.spec import ModelSpec

from .batches import LOSS, Batches
from .learned_weights import LossWeights
from .losses import Loss
from .processes import ALONE, Processes
from .recipe import Recipe

__all__ = ["Base", "Step", "TrainState", "learning_rate", "train"]


@final
@dataclass(frozen=True, eq=False)
class Base:
    """A trained model that a run starts from: its weights, and its spec, whose σ_d is part of what they mean."""

    spec: ModelSpec
    weights: dict[str, Tensor]


def _parameters(network: nn.Module, loss_weights: nn.Module | None) -> dict[str, nn.Parameter]:
    own = {} if loss_weights is None else dict(loss_weights.named_parameters(prefix="loss_weights"))
    return dict(network.named_parameters()) | own


@final
@dataclass
class TrainState:
    """All that training changes: weights, their average, the losses' weights, AdamW's moments, and the steps done."""

    network: nn.Module
    ema: dict[str, Tensor]
    loss_weights: LossWeights | None
    optimizer: torch.optim.AdamW
    step: int = 0

    @classmethod
    def fresh(cls, spec: ModelSpec, recipe: Recipe, device: torch.device, base: Base | None = None) -> TrainState:
        """Weights of ``base``; without one from the recipe's seed, whatever the global generator's state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = spec.build_network().to(device).train()
            loss_weights = LossWeights().to(device) if recipe.learned_weights else None
        if base is not None:
            network.load_state_dict(base.weights)
        ema = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        # Without weight decay, as the paper; fused and foreach variants do not change the arithmetic's order on a CPU.
        parameters = _parameters(network, loss_weights).values()
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
        return cls(network, ema, loss_weights, optimizer)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that the optimizer moves, by name: the network's parameters, then ``loss_weights.`` and those names."""
        return _parameters(self.network, self.loss_weights)

    def average(self, decay: float) -> None:
        """Move the average towards the weights; young averages forget faster, so that the start does not linger."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                self.ema[name].lerp_(parameter, 1 - decay)


@final
@dataclass(frozen=True)
class Step:
    """What one step of training yields."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to zero at the last step."""
    warmup = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    decay = 0.5 * (1 + math.cos(math.pi * step / recipe.steps)) if recipe.decay == "cosine" else 1.0
    return recipe.learning_rate * warmup * decay


def _backward(
    loss: Loss, network: Network, x_0: Tensor, noise: Noise, shares: Sequence[slice], autocast: torch.autocast
) -> Tensor:
    """The mean loss of all shares, its gradients added to the weights' share by share: one graph is alive at a time."""
    parts: list[Tensor] = []
    for rows in shares:
        key = noise[rows]
        with autocast:
            part = loss(network, x_0[rows].to(key.indices.device), key).mean() / len(shares)
        part.backward()
        parts.append(part.detach())
    return torch.stack(parts).sum()


def train(
    state: TrainState, loss: Loss, batches: Batches, recipe: Recipe, processes: Processes = ALONE
) -> Iterator[Step]:
    """Advance ``state`` to the recipe's last step, yielding after each one.

    Logging, saving and monitoring belong to the caller. A loss or gradient that is not finite raises TrainingError
    before it touches the weights. Each process and micro-batch takes its rows of the batch, with the keys that they
    have in any case: how many there are changes the rounding alone. The main process alone has the average.
    """
    processes.check_batch(recipe.batch_size, recipe.flow.times.moving_rows(recipe.batch_size), recipe.microbatches)
    device = next(state.network.parameters()).device
    # Matrix products in the recipe's precision; the losses see float32, and take their derivative in it.
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")

    def network(x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        return state.network(x, times).float()

    noise = Noise.of(recipe.seed, recipe.batch_size, device=device).fold(LOSS)
    shares = processes.shares(recipe.microbatches)
    while state.step < recipe.steps:
        rate = learning_rate(recipe, state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        labels, key = batches.labels(state.step), noise.fold(state.step)
        if labels is not None:
            key = key.labelled(labels)
        value = _backward(loss, network, batches(state.step), key, shares, autocast)
        parameters = state.parameters.values()
        processes.average([value, *(p.grad for p in parameters if p.grad is not None)])
        norm = nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        if not (math.isfinite(value.item()) and math.isfinite(norm.item())):
            raise TrainingError(
                f"step {state.step + 1}: the loss is {value.item()} and its gradient's norm {norm.item()}; the last "
                "checkpoint is intact. Lower learning_rate or clip_norm, and start anew with --restart"
            )
        state.optimizer.step()
        state.step += 1
        if processes.main:
            state.average(recipe.ema)
        yield Step(state.step, value.item(), norm.item(), rate)
