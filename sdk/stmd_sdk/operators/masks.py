"""Masks [1, h, w] of 0 and 1 for inpainting; 1 keeps a pixel, 0 hides it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError

__all__ = ["box_mask", "half_mask", "latent_mask", "random_mask", "strokes_mask"]


def box_mask(shape: tuple[int, ...], side: int) -> Float[Tensor, "1 h w"]:
    """Hide a centred square of ``side`` pixels."""
    height, width = _plane(shape)
    side = check_integer("side", side, 1, min(height, width) - 1)
    mask = torch.ones(1, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    mask[:, top : top + side, left : left + side] = 0
    return mask


def half_mask(shape: tuple[int, ...]) -> Float[Tensor, "1 h w"]:
    """Hide the right half."""
    height, width = _plane(shape)
    mask = torch.ones(1, height, width)
    mask[:, :, width // 2 :] = 0
    return mask


def latent_mask(mask: Float[Tensor, "1 h w"], factor: int) -> Float[Tensor, "1 h_z w_z"]:
    """The mask of latents whose cells are blocks of ``factor`` x ``factor`` pixels: 1 where a whole block is kept.

    So the paper inpaints in the latents of a VAE (its appendix C).
    """
    factor = check_integer("factor", factor, 1)
    if any(side % factor for side in mask.shape[1:]):
        raise InvalidArgumentError(f"factor: {factor} does not divide the sides of a mask {list(mask.shape[1:])}")
    return 1 - torch.nn.functional.max_pool2d(1 - mask, factor)


def random_mask(shape: tuple[int, ...], share: float, seed: int) -> Float[Tensor, "1 h w"]:
    """Keep each pixel with probability ``share``."""
    height, width = _plane(shape)
    if not 0 < share < 1:
        raise InvalidArgumentError(f"the share of kept pixels must lie between 0 and 1, got {share}")
    return (Noise.of(seed, 1).uniform(height, width) < share).float()


def strokes_mask(shape: tuple[int, ...], strokes: int, seed: int, width: float = 1.5) -> Float[Tensor, "1 h w"]:
    """Hide what lies within ``width`` pixels of random straight strokes across the image."""
    height, across = _plane(shape)
    ends = Noise.of(seed, check_integer("strokes", strokes, 1)).uniform(2, 2) * torch.tensor([height, across])
    points = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(across), indexing="ij"), dim=-1) + 0.5
    mask = torch.ones(1, height, across)
    for begin, end in ends:
        along = end - begin
        share = (((points - begin) @ along) / along.square().sum()).clamp(0, 1)
        distance = (points - begin - share[..., None] * along).norm(dim=-1)
        mask[0, distance <= width] = 0
    return mask


def _plane(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 3:
        raise InvalidArgumentError(f"masks are for images [c, h, w], not for shape {list(shape)}")
    return shape[1], shape[2]
