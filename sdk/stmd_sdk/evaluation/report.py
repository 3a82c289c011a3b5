"""The report of a certificate: verdict, table, JSON."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .. import __version__
from ..console import plain
from ..errors import InvalidArgumentError, OutputError
from ..files import check_writable, written_whole
from .between_seeds import Variety
from .finding import LEVEL, Certificate, Finding
from .statistics import Estimate

__all__ = ["Report", "finding_facts", "report_files"]


def report_files(out: Path, *suffixes: str) -> list[Path]:
    """The files of a report ``out``, one a suffix, which can be written: this is known before any work.

    ``out`` may be named as one of them.
    """
    if not out.name:
        raise OutputError(f"cannot write {out}.json: name the report as well as its folder")
    name = out.stem if out.suffix in suffixes else out.name
    files = [out.with_name(name + suffix) for suffix in suffixes]
    for file in files:
        check_writable(file)
    return files


@final
@dataclass(frozen=True)
class Report:
    """A model's certificate, and the controls' beside it where an oracle made them possible."""

    model: str
    data: str
    mean_flow_steps: int
    device: str
    certificate: Certificate
    controls: dict[str, Certificate]
    variety: Variety | None = None
    spread_of_classes: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the model is within tolerance, by an instrument that rejects every control.

        Raises :class:`InvalidArgumentError` where the pairs are too few for either.
        """
        for name, control in self.controls.items():
            if not control.rejected() or all(finding.within for finding in control.findings):
                raise InvalidArgumentError(
                    f"{control.pairs} pairs cannot tell the control {name!r} from exact draws, so there is "
                    f"no verdict; give the controls {4 * control.pairs} pairs"
                )
        return self.certificate.passed

    def table(self) -> Group:
        """What ``stmd certify`` prints."""
        certificate = self.certificate
        times = list(dict.fromkeys(finding.t for finding in certificate.findings))
        table = Table(title=plain(f"{self.model} on {self.data}, M = {self.mean_flow_steps}"), title_justify="left")
        table.add_column("measure")
        for t in times:
            table.add_column(f"t = {t:g}", justify="right")
        table.add_column("exact draws", justify="right")
        table.add_column("tolerance", justify="right")
        for measure in dict.fromkeys(finding.measure for finding in certificate.findings):
            row = {finding.t: finding for finding in certificate.findings if finding.measure == measure}
            table.add_row(measure, *(_cell(row[t]) for t in times), _exact(row[times[0]]), _tolerance(row[times[0]]))
        lines = [plain(f"control {name}: {_evidence(control)}") for name, control in self.controls.items()]
        varied = [] if self.variety is None else [Text(f"{self.variety}")]
        if self.spread_of_classes:
            cells = (f"{name} {one.value:.2f} ±{one.error:.2f}" for name, one in self.spread_of_classes.items())
            varied.append(plain(f"Spread over skill at t = 1, by class: {', '.join(cells)}."))
        return Group(table, *lines, *varied, *map(plain, self.notes), self._summary())

    def write_json(self, path: Path) -> None:
        """Everything in the table, with standard errors, bands, p-values, seed and environment."""
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(self._facts(), indent=1) + "\n")

    def _summary(self) -> Text:
        certificate = self.certificate
        off, tests = len(certificate.rejected()), len(certificate.tests)
        exact = f"{off} of {tests} tests tell the draws from exact ones at an overall level of {LEVEL:g} (Holm)"
        cost = f"{certificate.pairs} pairs, {certificate.draws} draws, {certificate.seconds:.0f} s"
        text = Text("PASS", style="bold green") if self.passed else Text("FAIL", style="bold red")
        where = "every estimate is within its tolerance" if self.passed else "estimates in red are out of tolerance"
        return text.append(f": {where}; {exact}; {cost}", style="default not bold")

    def _facts(self) -> dict[str, Any]:
        certificate = self.certificate
        return {
            "model": self.model,
            "data": self.data,
            "verdict": "pass" if self.passed else "fail",
            "mean_flow_steps": self.mean_flow_steps,
            "inference_steps": 1,
            "pairs": certificate.pairs,
            "draws": certificate.draws,
            "seed": certificate.seed,
            "level": LEVEL,
            "seconds": round(certificate.seconds, 2),
            "findings": [finding_facts(finding) for finding in certificate.findings],
            "rejected": [f"{finding.measure} at t = {finding.t:g}" for finding in certificate.rejected()],
            "curves": [
                {"t": t, "coverage": coverage, "ranks": certificate.curves("ranks")[t]}
                for t, coverage in certificate.curves("TARP").items()
            ],
            "variety": None if self.variety is None else asdict(self.variety) | {"says": str(self.variety)},
            "spread_skill_of_classes": {name: asdict(one) for name, one in self.spread_of_classes.items()},
            "notes": self.notes,
            "controls": {name: _control_facts(control) for name, control in self.controls.items()},
            "environment": {
                "stmd_sdk": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "machine": platform.platform(),
                "device": self.device,
                "threads": torch.get_num_threads(),
            },
        }


def finding_facts(finding: Finding) -> dict[str, Any]:
    """A finding for a report's JSON."""
    return {
        "measure": finding.measure,
        "t": finding.t,
        "value": finding.estimate.value,
        "standard_error": finding.estimate.error,
        "band_95": finding.estimate.band,
        "exact_draws": finding.target if finding.estimate.chance is None else finding.estimate.chance,
        "target": finding.target,
        "tolerance": finding.tolerance,
        "within": finding.within,
        "p_value": finding.p_value,
    }


def _control_facts(control: Certificate) -> dict[str, Any]:
    return {
        "rejected": bool(control.rejected()),
        "within_tolerance": all(finding.within for finding in control.findings),
        "pairs": control.pairs,
        "strongest": finding_facts(control.tests[0]),
        "findings": [finding_facts(finding) for finding in control.findings],
    }


def _cell(finding: Finding) -> Text:
    style = "" if finding.tolerance is None else "green" if finding.within else "bold red"
    return Text(f"{finding.estimate.value:.3f} ±{finding.estimate.error:.3f}", style=style)


def _exact(finding: Finding) -> str:
    """What exact draws show: the target, or of a deviation its mean and 95 % quantile at these pairs and draws."""
    if finding.estimate.chance is not None:
        return f"{finding.estimate.chance:.3f}, 95 % below {finding.estimate.band:.3f}"
    return "" if finding.target is None else f"{finding.target:g}"


def _tolerance(finding: Finding) -> str:
    if finding.tolerance is None or finding.target is None:
        return ""
    if finding.target == 0:
        return f"{finding.tolerance:g}"
    return f"{finding.target - finding.tolerance:g} to {finding.target + finding.tolerance:g}"


def _evidence(control: Certificate) -> str:
    rejected, first = control.rejected(), control.tests[0]
    found = f"{first.estimate.value:.3f} ±{first.estimate.error:.3f}"
    p_value = "p < 1e-15" if (first.p_value or 0.0) < 1e-15 else f"p = {first.p_value:.1g}"
    return (
        f"rejected by {len(rejected)} of {len(control.tests)} tests, first by {first.measure} "
        f"at t = {first.t:g} ({found}, {p_value})"
    )
