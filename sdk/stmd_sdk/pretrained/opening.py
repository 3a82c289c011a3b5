"""A model's weights, whoever trained it: in a file of this project's, or in a folder that diffusers saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..models.checkpoint import SPEC_KEY, load_model, read_spec
from ..models.spec import ModelSpec
from ..models.tensors import read_metadata
from .folder import describes_diffusers, diffusers_spec, load_diffusers
from .pipeline import describes_own, load_own, own_spec

__all__ = ["is_of_diffusers", "load_pretrained", "pretrained_spec"]


def load_pretrained(path: Path) -> tuple[ModelSpec, nn.Module]:
    """The spec and the network of a file of weights: float32, on the CPU, in evaluation mode."""
    return _readers(path)[1](path)


def pretrained_spec(path: Path) -> ModelSpec:
    """The spec alone."""
    return _readers(path)[0](path)


def is_of_diffusers(path: Path) -> bool:
    """Whether a file of weights has no spec inside, and diffusers' configuration beside it."""
    return SPEC_KEY not in read_metadata(path) and describes_diffusers(path)


def _readers(path: Path) -> tuple[Callable[[Path], ModelSpec], Callable[[Path], tuple[ModelSpec, nn.Module]]]:
    """What reads the spec alone, and what reads the network too, by what wrote a file."""
    if not is_of_diffusers(path):
        return read_spec, load_model
    return (own_spec, load_own) if describes_own(path) else (diffusers_spec, load_diffusers)
