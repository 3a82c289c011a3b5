"""A model's weights, whoever trained it: in a file of this project's, or in a folder that diffusers saved."""

from __future__ import annotations

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
    if not is_of_diffusers(path):
        return load_model(path)
    return load_own(path) if describes_own(path) else load_diffusers(path)


def pretrained_spec(path: Path) -> ModelSpec:
    """The spec alone."""
    if not is_of_diffusers(path):
        return read_spec(path)
    return own_spec(path) if describes_own(path) else diffusers_spec(path)


def is_of_diffusers(path: Path) -> bool:
    """Whether a file of weights has no spec inside, and diffusers' configuration beside it."""
    return SPEC_KEY not in read_metadata(path) and describes_diffusers(path)
