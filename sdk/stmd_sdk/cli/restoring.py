"""The work of ``stmd restore``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..codecs.codec import LatentCodec
from ..data.pictures import read_picture
from ..diffusion.noise import Noise
from ..diffusion.philox import fresh_seed
from ..errors import DataError, InvalidArgumentError
from ..files import check_writable, written_whole
from ..images import grid
from ..inference.summary import PosteriorSummary, posterior_summary
from ..operators import LinearOperator, Mask, check_measurement, latent_mask
from ..operators.named import named_operator
from ..sampler import Sampler
from .options import OPERATORS

__all__ = ["Damage", "as_the_network_sees", "parse_operator", "picture", "restored"]


@final
@dataclass(frozen=True)
class Damage:
    """What became of the image: ``operator`` by name, noise of deviation ``sigma``, or the operator's usual one.

    With ``simulate`` it is still to be done.
    """

    operator: str
    sigma: float | None
    simulate: bool


def restored(
    image: Path,
    damage: Damage,
    model: str,
    draws: int,
    steps: int,
    seed: int | None,
    device: str | None,
    out: Path,
) -> str:
    """Restore an image file into a picture of draws, mean and deviation; what was done, for the user."""
    check_writable(out, image)
    sampler = Sampler.from_pretrained(model, device=device)
    shape = sampler.spec.codec.decoded_shape(sampler.spec.shape)
    if len(shape) != 3:
        raise InvalidArgumentError(f"{model} draws no images: restore them with Sampler.condition")
    seed = fresh_seed() if seed is None else seed
    operator, y, sigma = _measurement(image, damage, shape, seed)
    started = time.perf_counter()
    conditioned = sampler.condition(*as_the_network_sees(operator, y, sampler), sigma=sigma)
    x = conditioned.sample(draws, inference_steps=steps, seed=seed, progress=True)
    with written_whole(out) as path:
        picture(y, x, posterior_summary(x)).save(path)
    hides = ", black hides" if damage.operator.startswith("mask:") else ""
    noise = f"sigma {sigma:g} of images in [-1, 1]"
    return (
        f"{draws} draws given {image}: {damage.operator}{hides}, {noise}, {steps} inference steps, seed {seed}\n"
        f"{time.perf_counter() - started:.2f} s on {sampler.device}, written to {out}"
    )


def _measurement(
    image: Path, damage: Damage, shape: tuple[int, ...], seed: int
) -> tuple[LinearOperator, Tensor, float]:
    """The operator, the measurement [1, *m] and its noise."""
    operator, usual = parse_operator(damage.operator, shape)
    sigma = usual if damage.sigma is None else damage.sigma
    y = _read_as(image, shape if damage.simulate else _measured(operator, shape))[None]
    if damage.simulate:
        clean = operator.A(y)
        return operator, clean + sigma * Noise.of(seed, 1).fold(0).normal(*clean.shape[1:]), sigma
    if isinstance(operator, Mask):
        y = operator.A(y)  # what the image shows under the mask is not measured
    return operator, y, sigma


def parse_operator(text: str, shape: tuple[int, ...]) -> tuple[LinearOperator, float]:
    """The operator that ``text`` names for images of ``shape`` [c, h, w], and the usual sigma of its noise."""
    named = named_operator(text, shape, lambda path: _read_mask(path, shape))
    if named is None:
        raise InvalidArgumentError(f"--operator must be one of {OPERATORS}; got {text!r}")
    return named


def as_the_network_sees(damage: LinearOperator, y: Tensor, sampler: Sampler) -> tuple[LinearOperator, Tensor]:
    """The damage and its measurement in the model's own space: of latents, those cells whose pixels all show."""
    codec, shape = sampler.spec.codec, sampler.spec.shape
    if not isinstance(codec, LatentCodec):
        return damage, y
    if not isinstance(damage, Mask):
        raise InvalidArgumentError("a model of latents restores masked images alone: give --operator mask:FILE")
    codec.prepare(shape)
    y = check_measurement(damage, y, codec.decoded_shape(shape), sampler.device)
    cells = Mask(latent_mask(damage.mask, codec.factor))
    return cells, cells.A(codec.encode(y))


def _read_mask(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A picture of a mask: 0 where it is black, which hides, 1 where it is white."""
    mask = (_read_as(path, (1, *shape[1:])) + 1) / 2
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError(
            f"{path}: a mask must be black (0), which hides, and white (255) alone; it has the values "
            f"{', '.join(f'{255 * value:.0f}' for value in mask.unique()[:4].tolist())}"
            f"{', …' if len(mask.unique()) > 4 else ''}"
        )
    return mask


def _read_as(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An image file of exactly this shape [c, h, w]."""
    image = read_picture(path, shape[0])
    if image.shape != shape:
        (_, height, width), (_, tall, wide) = image.shape, shape
        raise DataError(f"{path}: has {width}×{height} pixels, {wide}×{tall} are needed: resize or crop it")
    return image


def _measured(damage: LinearOperator, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape [c, h, w] of what an image of ``shape`` leaves."""
    return tuple(damage.A(torch.zeros(1, *shape)).shape[1:])


def picture(y: Tensor, draws: Tensor, summary: PosteriorSummary) -> Image.Image:
    """Measurement, mean and deviation above the draws, each labelled. y is [1, c, h, w], draws [n, c, h, w]."""
    spread = summary.deviation.mean(dim=0, keepdim=True)[None]
    top = float(spread.max())
    side, gap, line = 168, 12, 20
    shown = grid(draws)
    panels = [
        ("measurement", grid(y.clamp(-1, 1), scale=1)),
        (f"mean of {len(draws)}", grid(summary.mean[None], scale=1)),
        (f"deviation, white {top:.2f}", grid(2 * spread / max(top, 1e-6) - 1, scale=1)),
    ]
    width = max(len(panels) * (side + gap) + gap, shown.width + 2 * gap)
    sheet = Image.new("RGB", (width, side + 3 * gap + 2 * line + shown.height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, (label, panel) in enumerate(panels):
        left = gap + i * (side + gap)
        pen.text((left, gap // 2), label, fill="black", font=font)
        sheet.paste(panel.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (left, line))
    pen.text((gap, side + line + gap), f"{len(draws)} draws", fill="black", font=font)
    sheet.paste(shown.convert("RGB"), (gap, side + 2 * line + gap))
    return sheet
