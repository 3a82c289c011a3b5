"""A model's weights, whoever trained it: in a file of this project's, or in a folder of diffusers'."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..models.checkpoint import load_model, read_spec
from ..models.spec import ModelSpec
from .folder import describes_diffusers, diffusers_spec, load_diffusers

__all__ = ["load_pretrained", "pretrained_spec"]


def load_pretrained(path: Path) -> tuple[ModelSpec, nn.Module]:
    """The spec and the network of a file of weights: float32, on the CPU, in evaluation mode."""
    return load_diffusers(path) if describes_diffusers(path) else load_model(path)


def pretrained_spec(path: Path) -> ModelSpec:
    """The spec alone."""
    return diffusers_spec(path) if describes_diffusers(path) else read_spec(path)
