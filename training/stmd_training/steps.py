"""A step of training, and the state that it advances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import TrainingError
from stmd_sdk.models.spec import ModelSpec

from .learned_weights import LossWeights
from .losses import Loss
from .processes import Processes
from .recipe import Recipe

__all__ = ["Base", "Step", "TrainState", "backward", "clip", "diverged", "learning_rate"]


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
        return cls(network, ema, loss_weights, _optimizer(_parameters(network, loss_weights), recipe, device))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """All that the optimizer moves, by name: the network's parameters, then ``loss_weights.`` and those names."""
        return _parameters(self.network, self.loss_weights)

    def learn_at(self, rate: float) -> None:
        """The learning rate of the next step; where it lies on a device it is written there."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def decay(self, decay: float) -> float:
        """The average's after the next step; young averages forget faster, so that the start does not linger."""
        return min(decay, (2 + self.step) / (11 + self.step))

    def average(self, weight: float | Float[Tensor, ""]) -> None:
        """Move the average towards the weights, by the ``weight`` of these."""
        with torch.no_grad():
            for name, parameter in self.network.named_parameters():
                self.ema[name].lerp_(parameter, weight)


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


def _optimizer(parameters: dict[str, nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.AdamW:
    """AdamW without weight decay, as the paper; on a GPU with all that it reads there, in few launches."""
    if device.type != "cuda":
        return torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=0.0)
    rate = torch.tensor(recipe.learning_rate, device=device)
    return torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.0, fused=True, capturable=True)


def backward(
    loss: Loss, state: TrainState, x_0: Tensor, noise: Noise, shares: Sequence[slice], recipe: Recipe
) -> Float[Tensor, ""]:
    """The mean loss of all shares, its gradients added to the weights' share by share: one graph is alive at a time."""
    device = noise.indices.device
    # Matrix products in the recipe's precision; the losses see float32, and take their derivative in it.
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")

    def network(x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        return state.network(x, times).float()

    parts: list[Tensor] = []
    for rows in shares:
        key = noise[rows]
        with autocast:
            part = loss(network, x_0[rows].to(device), key).mean() / len(shares)
        part.backward()
        parts.append(part.detach())
    return torch.stack(parts).sum()


def clip(value: Float[Tensor, ""], state: TrainState, recipe: Recipe, processes: Processes) -> Float[Tensor, ""]:
    """Average the loss and gradients over the processes, clip the gradients and return their norm before."""
    parameters = state.parameters.values()
    processes.average([value, *(p.grad for p in parameters if p.grad is not None)])
    return nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)


def diverged(step: int, loss: float, norm: float) -> TrainingError:
    """The error of a step whose loss or gradient is not finite."""
    return TrainingError(
        f"step {step}: the loss is {loss} and its gradient's norm {norm}; the last checkpoint is intact. Lower "
        "learning_rate or clip_norm, and start anew with --restart"
    )
