"""How true a sampler's draws are: certificates, coverage, distances, Wasserstein bounds; and exact mixtures.

May import the sampler and all below it. To add a measure: a function of joint draws in ``calibration.py``, and what
yields its finding where ``kernel.py`` or ``coverage.py`` lists what is measured.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..mixtures.conditioning import conditioned
    from ..mixtures.law import GaussianMixture, MixturePosterior, exact_velocity
    from ..mixtures.problems import mixture
    from .between_seeds import Variety, variety
    from .bounds import (
        bounded_start,
        consistency_monitor,
        coupled_start,
        flow_residual,
        lipschitz_start,
        sample_bound,
        transition_bound,
    )
    from .certify import certify_model
    from .controls import control_posteriors
    from .coverage import heldout_certificate
    from .distances import energy_distance, frechet_distance, mmd, sliced_w2
    from .features import Classifier, Features, load_classifier, load_features
    from .finding import Certificate, Finding
    from .joint import JointDraws, joint_draws
    from .kernel import control_certificates, kernel_certificate
    from .neighbours import Neighbourhood, neighbourhood
    from .posterior_report import PosteriorReport, certify_posterior
    from .quality import Quality, QualityReport, Reference, evaluate_model, reference
    from .report import Report
    from .solver import SolvedPairs, Solver, solved_pairs, solver_certificate
    from .statistics import Estimate

# Names are imported when first used, as those of the package itself.
HOMES = {
    "Certificate": "finding",
    "Classifier": "features",
    "Estimate": "statistics",
    "Features": "features",
    "Finding": "finding",
    "GaussianMixture": ".mixtures.law",
    "JointDraws": "joint",
    "MixturePosterior": ".mixtures.law",
    "Neighbourhood": "neighbours",
    "PosteriorReport": "posterior_report",
    "Quality": "quality",
    "QualityReport": "quality",
    "Reference": "quality",
    "Report": "report",
    "SolvedPairs": "solver",
    "Solver": "solver",
    "Variety": "between_seeds",
    "bounded_start": "bounds",
    "certify_model": "certify",
    "certify_posterior": "posterior_report",
    "conditioned": ".mixtures.conditioning",
    "consistency_monitor": "bounds",
    "control_certificates": "kernel",
    "control_posteriors": "controls",
    "coupled_start": "bounds",
    "energy_distance": "distances",
    "evaluate_model": "quality",
    "exact_velocity": ".mixtures.law",
    "flow_residual": "bounds",
    "frechet_distance": "distances",
    "heldout_certificate": "coverage",
    "joint_draws": "joint",
    "kernel_certificate": "kernel",
    "lipschitz_start": "bounds",
    "load_classifier": "features",
    "load_features": "features",
    "mixture": ".mixtures.problems",
    "mmd": "distances",
    "neighbourhood": "neighbours",
    "reference": "quality",
    "sample_bound": "bounds",
    "sliced_w2": "distances",
    "solved_pairs": "solver",
    "solver_certificate": "solver",
    "transition_bound": "bounds",
    "variety": "between_seeds",
}

__all__ = [
    "Certificate",
    "Classifier",
    "Estimate",
    "Features",
    "Finding",
    "GaussianMixture",
    "JointDraws",
    "MixturePosterior",
    "Neighbourhood",
    "PosteriorReport",
    "Quality",
    "QualityReport",
    "Reference",
    "Report",
    "SolvedPairs",
    "Solver",
    "Variety",
    "bounded_start",
    "certify_model",
    "certify_posterior",
    "conditioned",
    "consistency_monitor",
    "control_certificates",
    "control_posteriors",
    "coupled_start",
    "energy_distance",
    "evaluate_model",
    "exact_velocity",
    "flow_residual",
    "frechet_distance",
    "heldout_certificate",
    "joint_draws",
    "kernel_certificate",
    "lipschitz_start",
    "load_classifier",
    "load_features",
    "mixture",
    "mmd",
    "neighbourhood",
    "reference",
    "sample_bound",
    "sliced_w2",
    "solved_pairs",
    "solver_certificate",
    "transition_bound",
    "variety",
]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
