"""A model against itself: its draws beside those of the exact flow of the denoiser inside it.

Were an STMD network exact, its one-step draws of p(x_0 | x_t) and the draws by the flow of its own denoiser (GLASS)
would have one law. That needs neither an oracle nor held-out data, and so it says nothing of the data: a network can
agree with itself and be wrong. It is for reading, not a verdict. The states x_t are the model's own samples, noised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from jaxtyping import Float
from rich.console import Group
from rich.table import Table
from torch import Tensor

from ..checks import check_integer
from ..console import plain
from ..diffusion.noise import Noise
from ..diffusion.posterior import FlowPosterior
from ..errors import InvalidArgumentError
from ..files import written_whole
from ..models.objective import Pretrained
from ..runs.given import GivenDenoiser
from ..sampler import Sampler
from .certificate import certified
from .coverage import HELDOUT_TIMES
from .finding import Certificate, Finding
from .joint import draw
from .kernel import conditional_energy
from .report import report_files
from .statistics import ratio_estimate

__all__ = ["Consistency", "certify_own_denoiser"]

STATES, DRAWS = 64, 4
FLOW_STEPS = Pretrained.default_flow_steps
NO_VERDICT = "No verdict: a model may agree with itself and be wrong."


@final
@dataclass(frozen=True)
class Consistency:
    """What the draws of a model and of its own denoiser have in common, t by t."""

    model: str
    mean_flow_steps: int
    certificate: Certificate
    passed: bool = True  # there is nothing to fail

    def table(self) -> Group:
        """What ``stmd certify --against own-denoiser`` prints."""
        findings = self.certificate.findings
        times = list(dict.fromkeys(one.t for one in findings))
        heads = [f"t = {t:g}" for t in times]
        title = plain(f"{self.model}, M = {self.mean_flow_steps}, against the flow of its own denoiser")
        table = Table("measure", *heads, "if consistent", title=title, title_justify="left")
        for measure in dict.fromkeys(one.measure for one in findings):
            row = [one for one in findings if one.measure == measure]
            cells = [f"{one.estimate.value:.3f} ±{one.estimate.error:.3f}" for one in row]
            table.add_row(measure, *cells, f"{row[0].target:g}")
        cost = f"{self.certificate.pairs} states, {self.certificate.draws} draws, {self.certificate.seconds:.0f} s"
        said = f"{FLOW_STEPS} steps of the flow, two evaluations each; {cost}"
        return Group(table, plain(said), plain(NO_VERDICT))

    def write_json(self, path: Path) -> None:
        """The table, with standard errors."""
        found = {
            "model": self.model,
            "against": "own-denoiser",
            "mean_flow_steps": self.mean_flow_steps,
            "flow_steps": FLOW_STEPS,
            "states": self.certificate.pairs,
            "draws": self.certificate.draws,
            "seed": self.certificate.seed,
            "seconds": round(self.certificate.seconds, 2),
            "findings": [
                {"measure": one.measure, "t": one.t, "value": one.estimate.value, "standard_error": one.estimate.error}
                for one in self.certificate.findings
            ],
        }
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")


def certify_own_denoiser(
    model: str | Path,
    *,
    out: Path,
    pairs: int | None = None,
    mean_flow_steps: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Consistency:
    """Compare a model's draws at M = ``mean_flow_steps`` with those of its own denoiser's flow, and write ``out``.json.

    *variance ratio*: the variance of its K draws of one x_t over that of the flow's; *energy distance*: between the
    two, over the mean distance of two draws of the flow's. Raises :class:`InvalidArgumentError` for a model that has no
    denoiser, knows one point a state, or is nothing but a denoiser.
    """
    (as_json,) = report_files(out, ".json")
    states = STATES if pairs is None else check_integer("pairs", pairs, 8)
    sampler = Sampler.from_pretrained(model)
    spec, steps = sampler.spec, sampler.spec.flow_steps(mean_flow_steps)
    if not spec.objective.draws or isinstance(spec.objective, Pretrained):
        raise InvalidArgumentError(f"{spec.name} has no draws beside its denoiser's: --against own-denoiser is of STMD")
    flow = _flow(sampler)
    x_0 = spec.codec.encode(sampler.sample(states, mean_flow_steps=steps, seed=seed + 1))

    def draws_at(t: float, noise: Noise) -> tuple[float, Tensor, Tensor]:
        key, rows = noise.to(sampler.device), x_0.new_full((states,), t)
        x_t = spec.schedule.marginal(x_0, rows, key.fold(0).normal(*spec.shape))
        own = draw(spec.build_posterior(sampler.network, steps), x_t, t, DRAWS, key.fold(1))
        return t, own.flatten(2), draw(flow, x_t, t, DRAWS, key.fold(2)).flatten(2)

    measures = (_variance, _energy)
    certificate = certified(draws_at, measures, HELDOUT_TIMES, pairs=states, draws=DRAWS, seed=seed, progress=progress)
    report = Consistency(spec.name, steps, certificate)
    report.write_json(as_json)
    return report


def _flow(sampler: Sampler) -> FlowPosterior:
    """The posterior of the model's own denoiser."""
    spec = sampler.spec
    return Pretrained().posterior(GivenDenoiser(sampler.denoiser), FLOW_STEPS, spec.measured)


Draws = tuple[float, Float[Tensor, "K n d"], Float[Tensor, "K n d"]]


def _variance(seen: Draws) -> Iterator[Finding]:
    """E s² of the model's draws over that of the flow's."""
    t, own, flow = seen
    spreads = [one.var(dim=0).sum(dim=1).double().cpu() for one in (own, flow)]
    yield Finding("variance ratio", t, ratio_estimate(*spreads), 1.0)


def _energy(seen: Draws) -> Iterator[Finding]:
    """The energy distance of the two."""
    t, own, flow = seen
    apart, scale = conditional_energy(own, flow)
    yield Finding("energy distance", t, ratio_estimate(apart.double().cpu(), scale.double().cpu()), 0.0, one_sided=True)
