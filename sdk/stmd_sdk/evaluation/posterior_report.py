"""Calibrate a model's posterior draws: x from its own law, y from x, draws given y."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from rich.console import Group
from rich.table import Table
from torch import Tensor

from ..checks import check_integer
from ..console import plain
from ..data.pictures import read_mask
from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError
from ..files import written_whole
from ..operators import GaussianNoise, LinearOperator, Measurement, gaussian_projections
from ..operators.named import named_operator
from ..sampler import Sampler
from .finding import Certificate
from .report import report_files
from .solver import LEAST_PAIRS, SOLVER_DRAWS, SOLVER_LEVEL, SOLVER_PAIRS, solved_pairs

__all__ = ["PosteriorReport", "certify_posterior"]

PARTICLES = 16  # for each draw that is looked at, of resampled ones
PROJECTIONS = "projections"


@final
@dataclass(frozen=True)
class PosteriorReport:
    """The calibration of a model's draws given ``operator``, and that of the same draws a twentieth too narrow."""

    model: str
    operator: str
    sigma: float
    resampled: bool
    certificate: Certificate
    control: Certificate

    @property
    def passed(self) -> bool:
        """Whether nothing contradicts that x and its draws are exchangeable."""
        return not self.certificate.rejected(SOLVER_LEVEL)

    def table(self) -> Group:
        """What ``stmd certify --posterior`` prints."""
        how = "resampled" if self.resampled else "annealed"
        title = f"{self.model} given {self.operator} with noise {self.sigma:g}: {how} draws"
        table = Table("measure", "found", "exact draws", "p", title=plain(title), title_justify="left")
        for one in self.certificate.findings:
            value = f"{one.estimate.value:.3f} ±{one.estimate.error:.3f}"
            table.add_row(one.measure, value, f"{one.target:g}", f"{one.p_value:.2g}")
        seen = ", ".join(one.measure for one in self.control.rejected(SOLVER_LEVEL)) or "nothing: take more pairs"
        found = ", ".join(one.measure for one in self.certificate.rejected(SOLVER_LEVEL))
        verdict = "PASS: no measure tells x from its draws" if self.passed else f"FAIL: {found} tell x from its draws"
        certificate = self.certificate
        lines = [
            f"control, the same draws 0.95 times as far from their mean: seen by {seen}",
            f"{verdict}, at an overall level of {SOLVER_LEVEL:g} (Holm); {certificate.pairs} pairs, "
            f"{certificate.draws} draws, {certificate.seconds:.0f} s",
        ]
        return Group(table, *map(plain, lines))

    def write_json(self, path: Path) -> None:
        """All findings."""
        found = {
            "model": self.model,
            "operator": self.operator,
            "sigma": self.sigma,
            "resampled": self.resampled,
            "pairs": self.certificate.pairs,
            "draws": self.certificate.draws,
            "seed": self.certificate.seed,
            "level": SOLVER_LEVEL,
            "verdict": "pass" if self.passed else "fail",
            "seconds": round(self.certificate.seconds, 2),
            "findings": _facts(self.certificate),
            "control": _facts(self.control),
        }
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")


def certify_posterior(
    model: str | Path,
    operator: str,
    *,
    out: Path,
    sigma: float = 0.1,
    pairs: int | None = None,
    steps: int | None = None,
    resample: bool = False,
    mean_flow_steps: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PosteriorReport:
    """Calibrate :meth:`stmd_sdk.Sampler.gibbs` of a model by simulation, and write ``out``.json.

    x are samples of the model, by its default number of steps; so what fails is the solver, or that the model's draws
    at the times of the levels are not of one law. ``operator`` is one of ``stmd restore``'s for images, and
    ``projections[:COUNT]`` for vectors, a quarter of the coordinates by default. Of resampled draws every sixteenth is
    looked at, as their neighbours have ancestors in common.
    """
    (as_json,) = report_files(out, ".json")
    count = SOLVER_PAIRS if pairs is None else check_integer("pairs", pairs, LEAST_PAIRS)
    sampler, noise_model = Sampler.from_pretrained(model), GaussianNoise(sigma)
    damage = _operator(operator, sampler)
    x = sampler.sample(count, mean_flow_steps=mean_flow_steps, seed=seed).cpu()

    def solver(y: Float[Tensor, "1 *m"], noise: Noise, draws: int, /) -> Float[Tensor, "draws *d"]:
        measured, key = Measurement(damage, y, noise_model), noise.fold(0)
        if not resample:
            return sampler.gibbs(measured, draws, steps=steps, mean_flow_steps=mean_flow_steps, seed=key).samples.cpu()
        wide = Noise(key.seed, torch.arange(PARTICLES * draws), key.path)
        found = sampler.gibbs(
            measured, len(wide), steps=steps, resample=True, mean_flow_steps=mean_flow_steps, seed=wide
        )
        return found.samples[::PARTICLES].cpu()

    solved = solved_pairs(solver, x, damage, noise_model, draws=SOLVER_DRAWS, seed=seed + 1, progress=progress)
    control = solved.shrunk().certificate()
    report = PosteriorReport(sampler.spec.name, operator, sigma, resample, solved.certificate(), control)
    report.write_json(as_json)
    return report


def _operator(text: str, sampler: Sampler) -> LinearOperator:
    """The operator that ``text`` names for the model's samples."""
    shape = sampler.spec.codec.decoded_shape(sampler.spec.shape)
    if shape != sampler.spec.shape:
        raise InvalidArgumentError(
            f"--posterior: {sampler.spec.name} is a model of latents; its samples are not its x_0"
        )
    name, _, count = text.partition(":")
    if name == PROJECTIONS and (not count or count.isdecimal()):
        return gaussian_projections(shape, int(count) if count else max(1, shape[0] // 4), 0)
    found = named_operator(text, shape, lambda path: read_mask(path, (1, *shape[1:]))) if len(shape) == 3 else None
    if found is None:
        raise InvalidArgumentError(
            f"--posterior must be projections[:COUNT] or, of images, one of stmd restore's operators; got {text!r}"
        )
    return found[0]


def _facts(certificate: Certificate) -> list[dict[str, object]]:
    return [
        {"measure": one.measure, "value": one.estimate.value, "standard_error": one.estimate.error,
         "target": one.target, "p_value": one.p_value}
        for one in certificate.findings
    ]  # fmt: skip
