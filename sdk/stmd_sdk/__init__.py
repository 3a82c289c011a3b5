"""STMD SDK: stochastic one- and few-step diffusion.

>>> from stmd_sdk import Sampler
>>> images = Sampler.from_pretrained("mnist").sample(64, inference_steps=4, seed=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .diffusion.network import Network
    from .diffusion.noise import Noise
    from .diffusion.posterior import Posterior
    from .diffusion.vp import VPSchedule
    from .errors import (
        CheckpointError,
        DataError,
        DeviceError,
        InferenceError,
        InferenceWarning,
        InvalidArgumentError,
        MissingExtraError,
        OutputError,
        StmdError,
        TrainingError,
    )
    from .images import grid, to_images
    from .inference.draws import ChainDraws, GibbsDraws, SteeredDraws
    from .inference.summary import PosteriorSummary, posterior_summary
    from .models.spec import ModelSpec
    from .pipeline import STMDPipeline, STMDScheduler
    from .sampler import Sampler

__version__ = "0.2.0"

# Names are imported when first used: `stmd --help` and the torch-free parts must not wait for PyTorch.
HOMES = {
    "ChainDraws": "inference.draws",
    "CheckpointError": "errors",
    "DataError": "errors",
    "DeviceError": "errors",
    "GibbsDraws": "inference.draws",
    "InferenceError": "errors",
    "InferenceWarning": "errors",
    "InvalidArgumentError": "errors",
    "MissingExtraError": "errors",
    "ModelSpec": "models.spec",
    "Network": "diffusion.network",
    "Noise": "diffusion.noise",
    "OutputError": "errors",
    "Posterior": "diffusion.posterior",
    "PosteriorSummary": "inference.summary",
    "STMDPipeline": "pipeline",
    "STMDScheduler": "pipeline",
    "Sampler": "sampler",
    "SteeredDraws": "inference.draws",
    "StmdError": "errors",
    "TrainingError": "errors",
    "VPSchedule": "diffusion.vp",
    "grid": "images",
    "posterior_summary": "inference.summary",
    "to_images": "images",
}

__all__ = [
    "ChainDraws",
    "CheckpointError",
    "DataError",
    "DeviceError",
    "GibbsDraws",
    "InferenceError",
    "InferenceWarning",
    "InvalidArgumentError",
    "MissingExtraError",
    "ModelSpec",
    "Network",
    "Noise",
    "OutputError",
    "Posterior",
    "PosteriorSummary",
    "STMDPipeline",
    "STMDScheduler",
    "Sampler",
    "SteeredDraws",
    "StmdError",
    "TrainingError",
    "VPSchedule",
    "grid",
    "posterior_summary",
    "to_images",
]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
