"""A model's weights, whoever trained it: in a file of this project's, or in a folder of diffusers'."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..models.checkpoint import SPEC_KEY, load_model, read_spec
from ..models.spec import ModelSpec
from ..models.tensors import read_metadata
from .folder import describes_diffusers, diffusers_spec, load_diffusers

__all__ = ["is_of_diffusers", "load_pretrained", "pretrained_spec"]


def load_pretrained(path: Path) -> tuple[ModelSpec, nn.Module]:
    """The spec and the network of a file of weights: float32, on the CPU, in evaluation mode."""
    return load_diffusers(path) if is_of_diffusers(path) else load_model(path)


def pretrained_spec(path: Path) -> ModelSpec:
    """The spec alone."""
    return diffusers_spec(path) if is_of_diffusers(path) else read_spec(path)


def is_of_diffusers(path: Path) -> bool:
    """Whether a file of weights has no spec inside, and diffusers' configuration beside it."""
    return SPEC_KEY not in read_metadata(path) and describes_diffusers(path)
