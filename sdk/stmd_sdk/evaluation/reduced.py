"""A model in a reduced precision beside itself in float32: what the rounding moves, and whether it can be told.

The evidence is the error of the network's output where sampling evaluates it, the differences of samples with shared
noise, a two-sample test of samples without, and the certificate of both on the same pairs. The reduced model passes
if the test does not tell its samples apart and no finding leaves its tolerance that is within it in float32.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ..checks import check_integer
from ..console import plain
from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError
from ..files import written_whole
from ..sampler import Sampler
from .certify import report_on
from .distances import two_sample_p_value
from .finding import Certificate, Finding
from .report import finding_facts, report_files

__all__ = ["DTYPES", "Difference", "PrecisionReport", "certify_precision"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SAMPLES = 4096  # a side of the two-sample test
SHARED = 64  # samples of shared noise
PERMUTATIONS, LEVEL = 1999, 1e-3  # p is 1/2000 at least


@final
@dataclass(frozen=True)
class Difference:
    """The largest absolute difference, its root mean square, and that of the float32 values themselves."""

    maximum: float
    rms: float
    scale: float

    @classmethod
    def of(cls, found: Tensor, expected: Tensor) -> Difference:
        """How far ``found`` is from what float32 gives."""
        gap = (found - expected).double()
        return cls(float(gap.abs().max()), _rms(gap), _rms(expected.double()))

    def __str__(self) -> str:
        return f"rms {self.rms:.2g}, at most {self.maximum:.2g}, of rms {self.scale:.2g}"


@final
@dataclass(frozen=True)
class PrecisionReport:
    """What a reduced precision does to a model: ``full`` and ``certificate`` are of the same pairs and draws' keys."""

    model: str
    against: str
    data: str
    evaluation: Difference
    samples: Difference
    count: int
    p_value: float
    full: Certificate
    certificate: Certificate

    @property
    def worse(self) -> list[Finding]:
        """The findings out of tolerance that float32 has within."""
        pairs = zip(self.full.findings, self.certificate.findings, strict=True)
        return [found for expected, found in pairs if expected.within and not found.within]

    @property
    def passed(self) -> bool:
        """Whether the samples are not told apart, and the certificate passes what float32's passes."""
        return self.p_value >= LEVEL and not self.worse

    def table(self) -> Group:
        """What ``stmd certify --dtype`` prints."""
        table = Table("measure", "t", "float32", "reduced", "", title=plain(f"{self.model} on {self.data}"))
        table.title_justify = "left"
        for expected, found in zip(self.full.findings, self.certificate.findings, strict=True):
            cells = [f"{one.estimate.value:.3f} ±{one.estimate.error:.3f}" for one in (expected, found)]
            verdict = "worse" if found in self.worse else ""
            table.add_row(found.measure, f"{found.t:g}", *cells, Text(verdict, style="bold red"))
        said = [
            f"one evaluation differs from {self.against}'s by {self.evaluation}",
            f"samples of shared noise differ by {self.samples}",
            f"{self.count} samples and as many others in float32: p = {self.p_value:.2g} that they are of one law",
        ]
        verdict = Text("PASS", style="bold green") if self.passed else Text("FAIL", style="bold red")
        why = "samples are not told apart, and no figure left its tolerance" if self.passed else self._why()
        return Group(table, *map(Text, said), verdict.append(f": {why}", style="default not bold"))

    def _why(self) -> str:
        told = [f"samples are told apart (p < {LEVEL:g})"] if self.p_value < LEVEL else []
        return "; ".join(told + [f"{one.measure} at t = {one.t:g} left its tolerance" for one in self.worse])

    def write_json(self, path: Path) -> None:
        """The table, with standard errors and tolerances."""
        facts = {
            "model": self.model,
            "against": self.against,
            "data": self.data,
            "verdict": "pass" if self.passed else "fail",
            "evaluation": asdict(self.evaluation),
            "samples": asdict(self.samples),
            "two_sample": {"samples": self.count, "p_value": self.p_value, "level": LEVEL},
            "pairs": self.certificate.pairs,
            "seed": self.certificate.seed,
            "float32": [finding_facts(one) for one in self.full.findings],
            "reduced": [finding_facts(one) for one in self.certificate.findings],
        }
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n")


def certify_precision(
    model: str | Path,
    dtype: str | None,
    *,
    against: str | Path | None = None,
    data: str | None = None,
    out: Path,
    samples: int = SAMPLES,
    pairs: int | None = None,
    mean_flow_steps: int | None = None,
    labelled: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> PrecisionReport:
    """Compare ``model`` in ``dtype`` ("bfloat16", "float16") with itself in float32, and write ``out``.json.

    An .onnx file or an engine has a precision of its own: ``dtype`` is then None, and ``against`` the model in float32
    that it was made of. ``data`` and the options below it are those of :func:`certify_model`.
    """
    (as_json,) = report_files(out, ".json")
    if dtype is not None and dtype not in DTYPES:
        raise InvalidArgumentError(f"dtype must be {' or '.join(DTYPES)}, got {dtype!r}")
    check_integer("samples", samples, 2)
    reduced = Sampler.from_pretrained(model, dtype=torch.float32 if dtype is None else DTYPES[dtype])
    full = Sampler.from_pretrained(model if against is None else against)
    if full.spec != reduced.spec:
        raise InvalidArgumentError(f"{model} was not made of {against}: their specs differ")
    m = full.spec.flow_steps(mean_flow_steps)
    asked = data, pairs, mean_flow_steps, labelled, seed, progress
    expected, found = (report_on(sampler, *asked, controlled=False)[0] for sampler in (full, reduced))
    one = reduced.sample(samples, mean_flow_steps=m, seed=seed + 1, progress=progress).cpu()
    other = full.sample(samples, mean_flow_steps=m, seed=seed + 2, progress=progress).cpu()
    report = PrecisionReport(
        f"{reduced.spec.name}, {dtype or Path(model).name}",
        f"{full.spec.name}, float32",
        found.data,
        *_differences(full, reduced, m, seed + 3),
        samples,
        two_sample_p_value(one, other, Noise.of(seed, PERMUTATIONS)),
        expected.certificate,
        found.certificate,
    )
    report.write_json(as_json)
    return report


def _differences(full: Sampler, reduced: Sampler, mean_flow_steps: int, seed: int) -> tuple[Difference, Difference]:
    """Of evaluations, at all that a sampling run of ``full`` gives its network; and of samples of shared noise."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def recorded(x: Tensor, times: Tensor, /) -> Tensor:
        u = full.network(x, times)
        seen.append((x.clone(), times.clone(), u))
        return u

    expected, found = (
        sampler.sample(SHARED, mean_flow_steps=mean_flow_steps, seed=seed)
        for sampler in (replace(full, network=recorded, captured=None), reduced)
    )
    here = reduced.device
    evaluated = [reduced.network(x.to(here), times.to(here)).to(u.device) for x, times, u in seen]
    evaluation = Difference.of(torch.cat(evaluated), torch.cat([u for *_, u in seen]))
    return evaluation, Difference.of(found.to(expected.device), expected)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
