"""A recipe at a size that takes seconds: the same code path, to see that it works on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stmd_sdk.codecs.codec import LatentCodec
from stmd_sdk.data.arrays import ArrayData, ShardedData
from stmd_sdk.data.labels import load_labelled_data
from stmd_sdk.data.latents import cache_latents
from stmd_sdk.data.load import load_data
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.files import written_whole
from stmd_sdk.images import to_images
from stmd_sdk.mixtures.law import GaussianMixture
from stmd_sdk.mixtures.problems import MIXTURES

from .recipe import Recipe

__all__ = ["smoke_test"]

STEPS, BATCH = 4, 8
SAMPLES = 32
LATENT_SIDE = 8


def smoke_test(recipe: Recipe, folder: Path) -> tuple[Recipe, ArrayData | ShardedData | GaussianMixture]:
    """The recipe with a tiny network for four steps, and data: its own where they are bundled, else synthetic.

    A recipe of latents gets a tiny VAE of random weights in ``folder``, and caches latents of synthetic pictures.
    """
    small = replace(
        recipe,
        name=f"{recipe.name}-smoke",
        network=recipe.model_network.tiny(),
        steps=min(recipe.steps, STEPS),
        batch_size=BATCH,
        warmup_steps=min(recipe.warmup_steps, 1),
        checkpoint_every=STEPS // 2,
        sample_every=STEPS,
        log_every=1,
    )
    if recipe.data == "digits" or recipe.data in MIXTURES:
        return small, load_labelled_data(recipe.data) if recipe.classes else load_data(recipe.data)
    if isinstance(recipe.codec, LatentCodec):
        codec = replace(recipe.codec, vae=str(_tiny_vae(recipe.codec, folder / "vae")), sha256=None)
        shape = (recipe.shape[0], LATENT_SIDE, LATENT_SIDE)
        return replace(small, codec=codec, shape=shape), _cached(codec, folder, recipe.classes)
    return small, _synthetic(recipe)


def _synthetic(recipe: Recipe) -> ArrayData:
    """Blocks of noise in [-1, 1], of one class after the other."""
    blocks = 2 * Noise.of(0, max(SAMPLES, recipe.classes)).uniform(*recipe.shape) - 1
    labels = torch.arange(len(blocks)) % recipe.classes if recipe.classes else None
    return ArrayData("synthetic", blocks, recipe.codec, labels)


def _cached(codec: LatentCodec, folder: Path, classes: int) -> ShardedData | ArrayData | GaussianMixture:
    size, pictures = codec.factor * LATENT_SIDE, folder / f"pictures-of-{classes}-classes"
    blocks = 2 * Noise.of(0, max(SAMPLES, classes)).uniform(3, size, size) - 1
    for i, picture in enumerate(to_images(blocks)):
        with written_whole(pictures / (f"{i % classes:04d}" if classes else "") / f"{i:04d}.png") as path:
            Image.fromarray(picture).save(path)
    latents = folder / "latents"
    for old in latents.glob("*"):
        old.unlink()
    cache_latents(str(pictures), latents, codec, size, shard_size=SAMPLES // 2)
    return load_data(latents)


def _tiny_vae(codec: LatentCodec, folder: Path) -> Path:
    """A VAE of random weights that maps as the recipe's does: to as many channels, by the same factor."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: PLC0415  takes seconds to import

    levels = codec.factor.bit_length()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build: Any = AutoencoderKL  # whose annotations say tuples of one
        vae = build(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=(8,) * levels,
            norm_num_groups=4,
            in_channels=codec.channels,
            out_channels=codec.channels,
        )
    vae.save_pretrained(folder)
    return folder
