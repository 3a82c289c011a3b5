"""How networks that others trained take a noise level: D(x, σ) = c_skip x + c_out F(c_in x, c).

Each maps our σ (x = x_0 + σ n, Karras et al., 2022) to what the network's own path calls it. A path of any schedule is
this one after scaling, so no bridge or sampler of theirs is needed. To add one: a final frozen dataclass with a
``kind`` and these methods, in the union :data:`Preconditioning`, and its scheduler in ``pretrained/scheduler.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidArgumentError
from .network import Network
from .schedule import expand

__all__ = [
    "DiscreteSteps",
    "EDMLevels",
    "FlowLevels",
    "GivenLevels",
    "PreconditionedDenoiser",
    "Preconditioning",
    "Scales",
]

MOST_STEPS = 100_000
Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


class Scales(NamedTuple):
    """The factors of x, of the network's input and of its output, and its time, one a sample."""

    c_in: Float[Tensor, " b"]
    time: Float[Tensor, " b"]
    c_skip: Float[Tensor, " b"]
    c_out: Float[Tensor, " b"]


@final
@dataclass(frozen=True)
class GivenLevels:
    """A denoiser itself: it takes x and σ, whatever σ is."""

    kind: Literal["given"] = "given"

    @property
    def sigma_range(self) -> tuple[float, float]:
        """All levels."""
        return 0.0, math.inf

    def scales(self, sigma: Float[Tensor, " b"]) -> Scales:
        """D = F(x, σ)."""
        one = torch.ones_like(sigma)
        return Scales(one, sigma, torch.zeros_like(sigma), one)


@final
@dataclass(frozen=True)
class DiscreteSteps:
    """DDPM's steps 0 to ``steps`` - 1 of x_k = √ᾱ_k x_0 + √(1 - ᾱ_k) ε, with ᾱ_k = Π (1 - β) and σ² = (1 - ᾱ)/ᾱ.

    A level between two steps is a *fractional* step: log σ is interpolated in their table. The network predicts ε; x_0
    (``sample``); or v = √ᾱ ε - √(1 - ᾱ) x_0. With ``zero_snr`` the β are rescaled so that the last step has no signal
    (Lin et al., 2023); that step has no σ, and the one before it is the last here.
    """

    betas: Betas = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 1000
    zero_snr: bool = False
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    kind: Literal["steps"] = "steps"

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 3, MOST_STEPS)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise InvalidArgumentError(f"betas: need 0 < start <= end < 1, got {self.beta_start} and {self.beta_end}")
        if self.zero_snr and self.prediction == "epsilon":
            raise InvalidArgumentError("zero_snr: a step without signal has no prediction of 'epsilon'")

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Those of the first step and of the last."""
        table = _log_sigmas(self)
        return float(np.exp(table[0])), float(np.exp(table[-1]))

    def scales(self, sigma: Float[Tensor, " b"]) -> Scales:
        """Those of the prediction, at the fractional step."""
        alpha = (1 + sigma.square()).rsqrt()
        zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
        match self.prediction:
            case "epsilon":
                c_skip, c_out = one, -sigma
            case "sample":
                c_skip, c_out = zero, one
            case "v_prediction":
                c_skip, c_out = alpha.square(), -sigma * alpha
        return Scales(alpha, self.step(sigma), c_skip, c_out)

    def step(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The fractional step of a level, within those that there are."""
        table, log_sigma = _table_on(self, sigma.device), sigma.double().log()
        # Counted, for neither a captured graph nor an exported one searches.
        below = ((table <= log_sigma[:, None]).sum(dim=1) - 1).clamp(0, len(table) - 2)
        low, high = table[below], table[below + 1]
        return (below + (log_sigma - low) / (high - low)).clamp(0, len(table) - 1).to(sigma.dtype)


@lru_cache(16)
def _log_sigmas(levels: DiscreteSteps) -> np.ndarray:
    """log σ of each step that has one, in float64 of β in float32, as diffusers has them."""
    n = levels.steps
    match levels.betas:
        case "linear":
            betas = torch.linspace(levels.beta_start, levels.beta_end, n, dtype=torch.float32, device="cpu")
        case "scaled_linear":
            betas = torch.linspace(levels.beta_start**0.5, levels.beta_end**0.5, n, device="cpu").float() ** 2
        case "squaredcos_cap_v2":  # Nichol and Dhariwal (2021)
            cosine = [math.cos((k / n + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(n + 1)]
            each = [min(1 - b / a, 0.999) for a, b in pairwise(cosine)]
            betas = torch.tensor(each, dtype=torch.float32, device="cpu")
    root = np.sqrt(np.cumprod(1 - betas.double().numpy()))  # √ᾱ
    if levels.zero_snr:
        root = ((root - root[-1]) * (root[0] / (root[0] - root[-1])))[:-1]
    return 0.5 * (np.log1p(-(root**2)) - 2 * np.log(root))


@lru_cache(16)
def _table_on(levels: DiscreteSteps, device: torch.device) -> Float[Tensor, " n"]:
    with torch.inference_mode(False):  # gradients pass it too
        return torch.from_numpy(_log_sigmas(levels)).to(device)


@final
@dataclass(frozen=True)
class EDMLevels:
    """EDM's preconditioning (Karras et al., 2022): c = log(σ) / 4, c_in = 1 / √(σ² + σ_d²), and the Gaussian D about F.

    ``prediction`` is the sign that diffusers gives F: ``v_prediction`` is minus ``epsilon``.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    kind: Literal["edm"] = "edm"

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < math.inf and 0 < self.sigma_data < math.inf):
            raise InvalidArgumentError("sigma: need 0 < sigma_min < sigma_max and a positive sigma_data")

    @property
    def sigma_range(self) -> tuple[float, float]:
        """What it was trained on."""
        return self.sigma_min, self.sigma_max

    def scales(self, sigma: Float[Tensor, " b"]) -> Scales:
        """Its Table 1."""
        c_in = (sigma.square() + self.sigma_data**2).rsqrt()
        c_out = sigma * self.sigma_data * c_in
        sign = 1 if self.prediction == "epsilon" else -1
        return Scales(c_in, sigma.log() / 4, (self.sigma_data * c_in) ** 2, sign * c_out)


@final
@dataclass(frozen=True)
class FlowLevels:
    """Flow matching: x_s = (1 - s) x_0 + s ε at s = σ / (1 + σ); the network takes ``steps`` s and predicts ε - x_0.

    A scheduler's shift moves the s that are visited, not what the network is told of one: it has no part here.
    """

    steps: int = 1000
    kind: Literal["flow"] = "flow"

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, 1, MOST_STEPS)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """From half a step up: s = 1 is σ = ∞."""
        return 0.5 / self.steps, math.inf

    def scales(self, sigma: Float[Tensor, " b"]) -> Scales:
        """x_0 = x_s - s v."""
        keep = 1 / (1 + sigma)
        share = sigma * keep
        return Scales(keep, self.steps * share, keep, -share)


Preconditioning = GivenLevels | DiscreteSteps | EDMLevels | FlowLevels


@final
@dataclass(frozen=True)
class PreconditionedDenoiser:
    """The denoiser of a network that takes levels as ``levels`` say; its x_0 is clipped to [-clip, clip], if given.

    Below the least level that it was trained on its score stays that of the least: D(x, σ) - x is σ² ∇ log p, which
    leaves x as σ goes to 0. Above the largest the network is told the largest.
    """

    network: Network
    levels: Preconditioning
    clip: float | None = None

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Float[Tensor, " b"], /) -> Float[Tensor, "b *d"]:
        """c_skip x + c_out F(c_in x, c)."""
        least, largest = self.levels.sigma_range
        known = sigma.clamp(min=least, max=largest)
        c_in, time, c_skip, c_out = self.levels.scales(known)
        x_0 = expand(c_skip, x) * x + expand(c_out, x) * self.network(expand(c_in, x) * x, time[:, None])
        if self.clip is not None:
            x_0 = x_0.clamp(-self.clip, self.clip)
        if least == 0:
            return x_0
        share = (sigma / known).clamp(max=1).square()
        return x + expand(share, x) * (x_0 - x)
