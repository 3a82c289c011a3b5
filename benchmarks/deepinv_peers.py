"""deepinv's own DPS, DDRM and DiffPIR with the bundled network, on the digits of ``posterior.py``.

    python benchmarks/deepinv_peers.py --data MNIST_DIR [--digits 8] [--first 0] [--out deepinv-peers.json]

In an environment of its own, where ``deepinv`` (0.5.0 was tried) is installed beside this project: it brings a torch
and a torchvision. Its images lie in [0, 1], so the network and the noise are scaled; its operators are made of ours,
whose measurements they give (else it stops). Of each method the best of several settings is kept, by CRPS, problem by
problem.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import deepinv  # type: ignore[reportMissingImports]  no dependency of this project
import numpy as np
import torch
from restoration import Problem, problems
from scoring import DRAWS, Restored, Row, held_out, restoring_options, scored, write_rows
from torch import Tensor

from stmd_sdk import Sampler
from stmd_sdk.files import check_writable
from stmd_sdk.operators import Blur, Mask

EVALUATIONS = 100
WEIGHTS = 30.0, 100.0, 300.0, 1000.0  # of DPS, 1 is its default
LAMBDAS = 1.0, 3.0, 7.0, 25.0  # of DiffPIR, 7 is its default
FIRST = 1.0, 20.0  # levels of DDRM: from 1 down evenly, its default, or from 20 down by one share a level
LEAST_SIGMA = 0.01

Runner = Callable[[Any, Tensor, Any, float], Tensor]


class Denoiser(torch.nn.Module):
    """E[x_0 | x_0 + σ n] of images in [0, 1], by a network that knows it in [-1, 1]."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.denoise, self.shape = sampler.denoiser, sampler.spec.shape

    def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
        """The mean at σ, one for all or one a row."""
        levels = 2 * torch.as_tensor(sigma, dtype=torch.float32).flatten().expand(len(x)).clamp(min=LEAST_SIGMA)
        return ((self.denoise(2 * x.float() - 1, levels) + 1) / 2).to(x)


def physics_of(problem: Problem, shape: tuple[int, ...]) -> Any:
    """The operator as deepinv's own, of images in [0, 1]; it must measure what ours does."""
    ours, noise = problem.operator, deepinv.physics.GaussianNoise(problem.sigma / 2)
    match ours:
        case Mask():
            made = deepinv.physics.Inpainting(img_size=shape, mask=ours.mask.float(), noise_model=noise)
        case Blur():
            made = deepinv.physics.BlurFFT(img_size=shape, filter=ours.kernel[None, None], noise_model=noise)
        case _:
            made = deepinv.physics.LinearPhysics(A=ours.A, A_adjoint=ours.A_adjoint, noise_model=noise)
    wrong = float((made.A(problem.x) - ours.A(problem.x)).abs().max())
    if wrong > 1e-3:
        raise SystemExit(f"{problem.name}: deepinv's operator measures something else, by {wrong:.2g}")
    return made


def dps(denoiser: Denoiser, y: Tensor, physics: Any, weight: float) -> Tensor:
    """DPS, its defaults but for the steps and the weight."""
    model = deepinv.sampling.DPS(denoiser, num_steps=EVALUATIONS + 1, weight=weight, dtype=torch.float32)
    return model(y, physics, x_init=(len(y), *denoiser.shape))


def diffpir(denoiser: Denoiser, y: Tensor, physics: Any, lambda_: float) -> Tensor:
    """DiffPIR, its defaults but for λ."""
    fidelity = deepinv.optim.data_fidelity.L2()
    model = deepinv.sampling.DiffPIR(denoiser, fidelity, max_iter=EVALUATIONS, lambda_=lambda_)
    return model(y, physics)


def ddrm(denoiser: Denoiser, y: Tensor, physics: Any, first: float) -> Tensor:
    """DDRM, where deepinv has the operator's singular basis."""
    falling = np.linspace(1, 0, EVALUATIONS) if first == 1 else np.geomspace(first, LEAST_SIGMA, EVALUATIONS)
    return deepinv.sampling.DDRM(denoiser, sigmas=falling)(y, physics)


METHODS: dict[str, tuple[Runner, tuple[float, ...]]] = {
    "DPS": (dps, WEIGHTS),
    "DiffPIR": (diffpir, LAMBDAS),
    "DDRM": (ddrm, FIRST),
}


def draws(problem: Problem, physics: Any, denoiser: Denoiser, runner: Runner, setting: float, seed: int) -> Restored:
    """19 draws of each digit, in [-1, 1]."""
    parts = list[Tensor]()
    for i, y in enumerate(problem.y):
        torch.manual_seed(1000 * seed + i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = runner(denoiser, _as_unit(y, problem).expand(DRAWS, *y.shape).clone(), physics, setting)
        parts.append((2 * made.float() - 1).clamp(-1, 1))
    return Restored(torch.stack(parts, dim=1), EVALUATIONS, {"setting": setting})


def _as_unit(y: Tensor, problem: Problem) -> Tensor:
    """y of images in [0, 1]: what a mask hides is 0 in either."""
    ones = problem.operator.A(torch.ones_like(problem.x[:1]))[0]
    return (y + ones) / 2


def main() -> None:
    options = restoring_options(__doc__, 8, "deepinv-peers.json").parse_args()
    check_writable(options.out)
    sampler = Sampler.from_pretrained(options.model, device="cpu")
    x = held_out(options.data, sampler, options.model, range(options.first, options.first + options.digits))
    denoiser, rows = Denoiser(sampler), list[Row]()
    for problem in problems(x, options.sigma, options.seed):
        if not problem.name.startswith(tuple(options.problems)):
            continue
        physics = physics_of(problem, tuple(x.shape[1:]))
        for name, (runner, settings) in METHODS.items():
            if not name.startswith(tuple(options.methods)):
                continue
            if name == "DDRM" and not isinstance(physics, deepinv.physics.DecomposablePhysics):
                continue
            row: Row = {"problem": problem.name, "posterior": options.model, "method": f"deepinv's {name}",
                        "seed": options.seed, "first": options.first, "digits": len(x), "draws": DRAWS}  # fmt: skip
            tried = [
                scored(row, x, partial(draws, problem, physics, denoiser, runner, setting, options.seed), options.seed)
                for setting in settings
            ]
            rows.append(min(tried, key=lambda one: one["crps"]))
            print(rows[-1], flush=True)
    write_rows(options.out, rows, deepinv=deepinv.__version__)


if __name__ == "__main__":
    main()
