"""What a certificate holds: findings with errors, bands and p-values, and the two ways to judge them.

*Tolerance* is the verdict for models. A trained model is never exact, and a significance test rejects it
given enough pairs; so a model passes if every estimate lies within its measure's tolerance, and fails
otherwise. There is no verdict where exact draws themselves could leave a tolerance: where a band, widened so that
all bands hold together with 95 % probability (Bonferroni), is wider than it, unless some other band lies outside
as a whole. The error says how many pairs are needed.

*Significance* is the judgement of the instrument: exact draws must not be rejected, controls must. The
hypothesis is that the draws are exact; Holm's correction over all findings keeps the probability of any false
rejection at the stated level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import final

from ..errors import InvalidArgumentError
from .statistics import NORMAL_95, Estimate, holm, normal_p_value

__all__ = ["LEVEL", "Certificate", "Finding", "z_p_value"]

LEVEL = 0.05


@final
@dataclass(frozen=True)
class Finding:
    """One measure at one t. ``target`` is its value for exact draws, where that is known, and ``tolerance``
    how far off a model may be; without a p-value it is no test, without a tolerance it has no part in the
    verdict. ``one_sided``: only values above the target are wrong, as for a distance, whose unbiased estimate can
    fall below zero. ``curve`` is what the estimate sums up, where there is more to see: TARP's coverage at levels
    j / (K + 1), the counts of ranks.
    """

    measure: str
    t: float
    estimate: Estimate
    target: float | None
    p_value: float | None = None
    tolerance: float | None = None
    one_sided: bool = False
    curve: tuple[float, ...] | tuple[int, ...] = ()

    @property
    def within(self) -> bool:
        """Whether the estimate lies within the tolerance."""
        return self._near(0.0)

    @property
    def decisively_off(self) -> bool:
        """Whether the whole band lies out of tolerance."""
        return not self._near(self.estimate.band)

    def _near(self, margin: float) -> bool:
        if self.tolerance is None or self.target is None:
            return True
        gap = self.estimate.value - self.target
        return (gap if self.one_sided else abs(gap)) <= self.tolerance + margin


@final
@dataclass(frozen=True)
class Certificate:
    """All findings about one posterior."""

    findings: tuple[Finding, ...]
    pairs: int
    draws: int
    seed: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every finding lies within its tolerance; raises where the pairs are too few to tell."""
        if any(finding.decisively_off for finding in self.findings):
            return False
        judged = [(one.estimate.band / one.tolerance, one) for one in self.findings if one.tolerance is not None]
        widest, finding = max(judged, key=lambda pair: pair[0])
        widest *= NormalDist().inv_cdf(1 - LEVEL / 2 / len(judged)) / NORMAL_95
        if widest > 1:
            raise InvalidArgumentError(
                f"{self.pairs} pairs are too few for a verdict: they tell {finding.measure} at t = {finding.t:g} "
                f"to ±{finding.estimate.band:.2g}, its tolerance is {finding.tolerance:g}; "
                f"about {math.ceil(self.pairs * widest**2)} pairs are needed"
            )
        return all(finding.within for finding in self.findings)

    def curves(self, measure: str) -> dict[float, tuple[float, ...] | tuple[int, ...]]:
        """The curves of a measure, by t."""
        return {one.t: one.curve for one in self.findings if one.measure == measure and one.curve}

    @property
    def tests(self) -> list[Finding]:
        """The findings that have a p-value, the smallest first."""
        tests = [finding for finding in self.findings if finding.p_value is not None]
        return sorted(tests, key=lambda finding: finding.p_value or 0.0)

    def rejected(self, level: float = LEVEL) -> list[Finding]:
        """The findings that contradict exact draws, at an overall ``level`` (Holm)."""
        tests = self.tests
        verdicts = holm([finding.p_value or 0.0 for finding in tests], level)
        return [finding for finding, verdict in zip(tests, verdicts, strict=True) if verdict]


def z_p_value(estimate: Estimate, target: float, *, one_sided: bool = False) -> float:
    """The normal p-value of an estimate against its target."""
    gap = estimate.value - target
    if estimate.error == 0:
        return 1.0 if gap == 0 else 0.0
    return normal_p_value(gap / estimate.error, one_sided=one_sided)
