"""Inference: guides, chains, steering, and what is said of their draws.

May import mixtures, operators and all below them. To add a guide: a frozen dataclass from Posterior to Posterior in
``guidance.py``; to add a loop of its own: a generator in a module of its own, and a method of the sampler.
"""

from __future__ import annotations

from .chain import metropolis
from .draws import ChainDraws, SteeredDraws
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
    "Guide",
    "LikelihoodGuide",
    "LikelihoodPosterior",
    "LogLikelihood",
    "PosteriorSummary",
    "RangeNullGuide",
    "RangeNullPosterior",
    "SteeredDraws",
    "metropolis",
    "posterior_summary",
    "steered_sde",
]
