"""A network of diffusers, its configuration and its scheduler, from the files around its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..codecs.codec import Codec, LatentCodec, PixelCodec, VectorCodec
from ..codecs.vae import present_name
from ..config import read_config
from ..diffusion.classes import Classes
from ..diffusion.preconditioning import EDMLevels
from ..diffusion.vp import VPSchedule
from ..errors import CheckpointError, InvalidArgumentError, first_line
from ..files import brief, is_file
from ..hub import title_of
from ..models.checkpoint import checked_weights
from ..models.folders import CONFIG, INDEX, read_table
from ..models.objective import Pretrained
from ..models.spec import ModelSpec
from ..models.tensors import read_tensors
from ..networks import DiffusersConfig
from .scheduler import SCHEDULER, read_scheduler

__all__ = ["describes_diffusers", "diffusers_spec", "load_diffusers"]

SUPPORTED = {
    "UNet2DModel": "UNet2DModel",
    "DiTTransformer2DModel": "DiTTransformer2DModel",
    "Transformer2DModel": "DiTTransformer2DModel",  # as older files name a DiT
}
PIXELS, LATENTS = 0.5, 1.0  # σ_d of images in [-1, 1] (Karras et al., 2022) and of scaled latents


def describes_diffusers(weights: Path) -> bool:
    """Whether a file of weights has diffusers' configuration beside it."""
    config = weights.parent / CONFIG
    return is_file(config, CheckpointError) and "_class_name" in read_table(config)


def diffusers_spec(weights: Path) -> ModelSpec:
    """The spec of the network whose weights these are, from the JSON files around them."""
    inside = weights.parent
    root = inside.parent if is_file(inside.parent / INDEX, CheckpointError) else inside
    network, classes = _network(inside / CONFIG)
    scheduler = _scheduler(inside, root)
    values = read_table(scheduler)
    levels, clip = read_scheduler(values, str(scheduler))
    codec = _codec(root, network, clip)
    least, largest = levels.sigma_range
    usual = LATENTS if not isinstance(codec, PixelCodec) else PIXELS
    try:
        return ModelSpec(
            title_of(root),
            Pretrained(levels, clip),
            network.shape,
            network,
            codec,
            VPSchedule.up_to(largest),
            levels.sigma_data if isinstance(levels, EDMLevels) else usual,
            classes=classes,
            training={"scheduler": str(values["_class_name"]), "sigma": f"{least:.3g} to {largest:.3g}"},
        )
    except InvalidArgumentError as error:
        raise CheckpointError(f"{inside}: {error}") from error


def load_diffusers(weights: Path) -> tuple[ModelSpec, nn.Module]:
    """The spec and the network of a folder: float32, on the CPU, in evaluation mode."""
    spec = diffusers_spec(weights)
    try:
        with torch.device("meta"):
            module = spec.build_network()
    except InvalidArgumentError as error:
        raise CheckpointError(f"{weights.parent / CONFIG}: {error}") from error
    except Exception as error:  # diffusers and PyTorch raise whatever they stumble over
        reason = brief(first_line(error))
        raise CheckpointError(f"{weights.parent / CONFIG}: describes no network ({reason})") from error
    tensors, _ = read_tensors(weights)
    renamed = {f"model.{present_name(name)}": tensor for name, tensor in tensors.items()}
    expected = cast(dict[str, Tensor], module.state_dict())
    module.load_state_dict(checked_weights(weights, renamed, expected), assign=True)
    for name, buffer in module.named_buffers():
        if buffer.is_meta:
            raise CheckpointError(f"{weights.parent / CONFIG}: not supported, its {name} is in no file")
    return spec, module.eval().requires_grad_(False)


def _network(config: Path) -> tuple[DiffusersConfig, Classes | None]:
    values = read_table(config)
    name = values.get("_class_name")
    if name not in SUPPORTED:
        why = ": it is conditioned on text" if name == "UNet2DConditionModel" else ""
        supported = ", ".join(SUPPORTED)
        raise CheckpointError(f"{config}: the network {brief(repr(name))} is not supported{why}; there are {supported}")
    arguments = {key: value for key, value in values.items() if not key.startswith("_")}
    try:
        model = SUPPORTED[str(name)]
        network = read_config(DiffusersConfig, {"model": model, "arguments": arguments, "kind": "diffusers"})
        null = model == "DiTTransformer2DModel"  # which has one for the label that is dropped
        return network, Classes(network.classes, null=null) if network.classes else None
    except InvalidArgumentError as error:
        raise CheckpointError(f"{config}: {error}") from error


def _scheduler(inside: Path, root: Path) -> Path:
    """The scheduler's configuration: in the pipeline's folder for it, or beside a network alone."""
    places = [root / "scheduler" / SCHEDULER, inside / SCHEDULER]
    for place in places:
        if is_file(place, CheckpointError):
            return place
    raise CheckpointError(f"{root}: has no scheduler/{SCHEDULER}, which says what the network predicts, and when")


def _codec(root: Path, network: DiffusersConfig, clip: float | None) -> Codec:
    """Latents where the pipeline has a VAE; else pixels where there are as many channels as an image has."""
    if is_file(root / "vae" / CONFIG, CheckpointError):
        values: Any = read_table(root / "vae" / CONFIG)
        levels = len(values.get("block_out_channels", (0,)))
        return LatentCodec(
            str((root / "vae").absolute()),
            float(values.get("scaling_factor", 0.18215)),
            2 ** (levels - 1),
            int(values.get("out_channels", 3)),
            shift_factor=float(values.get("shift_factor") or 0.0),
        )
    return PixelCodec() if clip == 1 or network.shape[0] in (1, 3) else VectorCodec()
