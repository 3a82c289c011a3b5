"""The one loop of every certificate: pairs at each t, and the measures of each.

A measure is a function of the pairs at one t that yields findings. To add one: write it beside its kin, in
:mod:`.kernel` against an exact posterior or in :mod:`.coverage` on held-out data, and list it in the certificate there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..diffusion.schedule import Schedule
from ..progress import progress_bar
from .finding import Certificate, Finding
from .joint import JointDraws

__all__ = ["PosteriorPairs", "certified"]

Pairs = TypeVar("Pairs")


@final
@dataclass(frozen=True, eq=False)
class PosteriorPairs:
    """Joint draws of a posterior at one t, and where they came from; ``sigma_data`` is the data's σ_d.

    A measure that needs chance folds a number of its own into ``noise``, which holds one key a pair: 1 the
    coverages, 2 the calibration, 3 the two steps, 4 the coverage of features.
    """

    joint: JointDraws
    posterior: Posterior
    schedule: Schedule
    sigma_data: float
    noise: Noise


def certified(
    pairs_at: Callable[[float, Noise], Pairs],
    measures: Sequence[Callable[[Pairs], Iterable[Finding]]],
    times: Sequence[float],
    *,
    pairs: int,
    draws: int,
    seed: int,
    progress: bool,
) -> Certificate:
    """The findings of every measure at each of ``times``, on ``pairs_at`` (t, one key a pair)."""
    begun, findings = time.monotonic(), list[Finding]()
    with progress_bar("certifying", len(times), "times", progress) as advance:
        for i, t in enumerate(times):
            seen = pairs_at(t, Noise.of(seed, pairs).fold(i))
            for measure in measures:
                findings += measure(seen)
            advance()
    return Certificate(tuple(findings), pairs, draws, seed, time.monotonic() - begun)
