"""Stable Diffusion's VAE, from files that are already on this machine. Nothing is downloaded or executed."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load  # type: ignore[reportUnknownVariableType]
from torch import Tensor

from ..config import read_json
from ..errors import CheckpointError
from ..files import brief, is_file, read_bytes, sha256_of
from ..networks.limits import check_sizes

__all__ = ["SD_VAE_FT_EMA", "load_vae", "present_name", "weights_file"]

SD_VAE_FT_EMA = "stabilityai/sd-vae-ft-ema@f04b2c4b98319346dad8c65879f680b1997b204a"
"""The VAE of the paper's latents, at the revision that this project means."""

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
CONFIG_BYTES, WEIGHTS_BYTES = 2**20, 2**32
PINNED = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@([0-9a-f]{40})")

# Attention as files from before diffusers 0.16 name it, sd-vae-ft-ema's among them.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@functools.cache
def load_vae(vae: str, sha256: str | None) -> Any:
    """The ``AutoencoderKL`` of a folder, or of ``owner/name@commit`` in the local Hugging Face cache.

    Float32, on the CPU, in evaluation mode; loaded once a process. ``sha256`` is that of the weights' file, None
    leaves it unchecked. Raises :class:`CheckpointError` for files that are absent, damaged or not the ones meant.
    """
    config, weights = _files(vae)
    data = read_bytes(weights, CheckpointError, WEIGHTS_BYTES)
    if sha256 is not None:
        found = sha256_of(data)
        if found != sha256:
            raise CheckpointError(
                f"{weights}: not the VAE that the model was trained with; its SHA-256 is {found}, not {sha256}"
            )
    network = _build(config)
    network.load_state_dict(_tensors(weights, data, network.state_dict()), assign=True)
    return network.eval().requires_grad_(False)


def weights_file(vae: str) -> Path:
    """The file of a VAE's weights; raises :class:`CheckpointError` where it is not on this machine."""
    return _files(vae)[1]


def _files(vae: str) -> tuple[Path, Path]:
    """The configuration and the weights."""
    pinned = PINNED.fullmatch(vae)
    if pinned is None:
        for file in (Path(vae) / CONFIG, Path(vae) / WEIGHTS):
            if not is_file(file, CheckpointError):
                raise CheckpointError(
                    f"no VAE at {vae}: {file} is missing; put one there that diffusers saved as safetensors, "
                    f"or name the paper's: {SD_VAE_FT_EMA}"
                )
        return Path(vae) / CONFIG, Path(vae) / WEIGHTS
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  comes with diffusers

    repository, revision = pinned.groups()
    found = [try_to_load_from_cache(repository, name, revision=revision) for name in (CONFIG, WEIGHTS)]
    if not all(isinstance(file, str) for file in found):
        raise CheckpointError(
            f"the VAE {vae} is not on this machine, and nothing is downloaded unasked; fetch it with: "
            f"hf download {repository} {CONFIG} {WEIGHTS} --revision {revision}"
        )
    return Path(str(found[0])), Path(str(found[1]))


def _build(config: Path) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: PLC0415  takes seconds to import

    try:
        values: Any = read_json(read_bytes(config, CheckpointError, CONFIG_BYTES), str(config), CheckpointError)
        if not isinstance(values, dict) or values.get("_class_name") != "AutoencoderKL":
            raise ValueError("it describes no AutoencoderKL")
        check_sizes(cast(dict[str, Any], values))
        known = {key: value for key, value in cast(dict[str, Any], values).items() if not key.startswith("_")}
        # On the meta device no weights are allocated, nor drawn at random only to be replaced.
        with torch.device("meta"):
            return AutoencoderKL(**known)
    except CheckpointError:
        raise
    except Exception as error:  # diffusers and PyTorch raise whatever they stumble over
        raise CheckpointError(f"{config}: cannot build a VAE from it ({brief(str(error))})") from error


def _tensors(weights: Path, data: bytes, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under today's names, checked against those of the network, as float32."""
    try:
        found = {present_name(name): tensor for name, tensor in load(data).items()}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{weights}: not a whole safetensors file ({error})") from error
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        raise CheckpointError(f"{weights}: its tensors are not those of its {CONFIG}, as {odd[0]}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape or not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise CheckpointError(f"{weights}: {name} has another shape, or values that are not finite numbers")
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in found.items()}


def present_name(name: str) -> str:
    """Today's name of a tensor in a file of diffusers."""
    if ".attentions." not in name:
        return name
    module, _, kind = name.rpartition(".")
    parent, _, layer = module.rpartition(".")
    return f"{parent}.{OLD_ATTENTION.get(layer, layer)}.{kind}"
