"""Inference: guides, chains, steering, and what is said of their draws.

May import mixtures, operators and all below them. To add a guide: a frozen dataclass from Posterior to Posterior in
``guidance.py``; to add a loop of its own: a generator in a module of its own, and a method of the sampler.
"""

from __future__ import annotations

from .chain import metropolis
from .draws import ChainDraws, GibbsDraws, SteeredDraws
from .gibbs import annealed_gibbs, resampled_gibbs
from .guidance import (
    Guide,
    LikelihoodGuide,
    LikelihoodPosterior,
    LogLikelihood,
    RangeNullGuide,
    RangeNullPosterior,
)
from .steering import steered_sde
from .summary import PosteriorSummary, posterior_summary

__all__ = [
    "ChainDraws",
    "GibbsDraws",
    "Guide",
    "LikelihoodGuide",
    "LikelihoodPosterior",
    "LogLikelihood",
    "PosteriorSummary",
    "RangeNullGuide",
    "RangeNullPosterior",
    "SteeredDraws",
    "annealed_gibbs",
    "metropolis",
    "posterior_summary",
    "resampled_gibbs",
    "steered_sde",
]
