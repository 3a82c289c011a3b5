"""The work of ``stmd restore``."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..codecs.codec import LatentCodec
from ..data.pictures import read_mask, read_picture_as
from ..diffusion.classes import parsed_label
from ..diffusion.noise import Noise
from ..diffusion.philox import fresh_seed
from ..errors import InvalidArgumentError
from ..files import check_writable, written_whole
from ..images import grid, png_bytes
from ..inference.summary import PosteriorSummary, posterior_summary
from ..operators import GaussianNoise, LinearOperator, Mask, Measurement, check_measurement, latent_mask
from ..operators.named import named_operator
from ..sampler import Sampler
from .options import METHODS, OPERATORS

__all__ = [
    "LEAST_SIGMA",
    "Damage",
    "Restorer",
    "Restoring",
    "Results",
    "as_the_network_sees",
    "measured_shape",
    "parse_operator",
    "picture",
    "restored",
    "restored_file",
]

LEAST_SIGMA = 0.02  # for images of 8 bits by methods that need noise: some three of their steps
CONDITION_STEPS, CHAIN_STEPS = 20, 100


@final
@dataclass(frozen=True)
class Damage:
    """What became of the image: ``operator`` by name, noise of deviation ``sigma``, or the method's usual one.

    With ``simulate`` it is still to be done.
    """

    operator: str
    sigma: float | None
    simulate: bool


@final
@dataclass(frozen=True)
class Restoring:
    """How many draws, by which method of ``METHODS``, in how many of its steps; of which class, by number or name."""

    method: str
    draws: int
    steps: int | None
    resample: bool
    label: str | None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidArgumentError(f"--method must be one of {', '.join(METHODS)}; got {self.method!r}")
        if self.resample and self.method != "gibbs":
            raise InvalidArgumentError(f"--resample is of --method gibbs, not of {self.method}")

    def sigma(self, asked: float | None, usual: float) -> float:
        """The noise to reckon with: what was asked for, or ``usual``; gibbs and chain need some."""
        exact = self.method == "condition"
        sigma = (usual if exact else max(usual, LEAST_SIGMA)) if asked is None else asked
        if sigma == 0 and not exact:
            raise InvalidArgumentError(
                f"--method {self.method} is for measurements with noise: give --sigma above 0 ({LEAST_SIGMA:g} does "
                "for 8-bit images), or --method condition, which meets an image without noise exactly"
            )
        return sigma


@final
@dataclass(frozen=True)
class Restorer:
    """A model that has been opened, to restore images that were damaged in one way."""

    sampler: Sampler
    damage: Damage
    how: Restoring
    seed: int

    @classmethod
    def open(cls, model: str, device: str | None, damage: Damage, how: Restoring, seed: int) -> Restorer:
        """Refuses a model that draws no images, and one of latents by a method that sees images."""
        sampler = Sampler.from_pretrained(model, device=device)
        if len(sampler.spec.codec.decoded_shape(sampler.spec.shape)) != 3:
            raise InvalidArgumentError(f"{model} draws no images: restore them with Sampler.gibbs")
        if isinstance(sampler.spec.codec, LatentCodec) and how.method != "condition":
            raise InvalidArgumentError(
                f"{model} is a model of latents, which restores masked images alone: give --method condition"
            )
        return cls(sampler, damage, how, seed)

    def measurement(self, image: Path) -> tuple[LinearOperator, Tensor, float]:
        """The operator, the measurement [1, *m] that an image file is or is made into, and its noise."""
        shape = self.sampler.spec.codec.decoded_shape(self.sampler.spec.shape)
        operator, usual = parse_operator(self.damage.operator, shape)
        sigma = self.how.sigma(self.damage.sigma, usual)
        y = read_picture_as(image, shape if self.damage.simulate else measured_shape(operator, shape))[None]
        if self.damage.simulate:
            clean = operator.A(y)
            y = clean + sigma * Noise.of(self.seed, 1).fold(0).fold(99).normal(*clean.shape[1:])  # no key of the draws
        if isinstance(operator, Mask):
            y = operator.A(y)  # what the image shows under the mask is not measured
        return operator, y, sigma

    def draw(self, operator: LinearOperator, y: Tensor, sigma: float, *, progress: bool = False) -> tuple[Tensor, str]:
        """The draws [n, c, h, w] given ``y``, and in words what made them."""
        how, sampler = self.how, self.sampler
        labels = parsed_label(how.label, sampler.spec.classes)
        shown: dict[str, Any] = {"seed": self.seed, "labels": labels, "progress": progress}
        if how.method == "condition":
            steps = CONDITION_STEPS if how.steps is None else how.steps
            given = sampler.condition(*as_the_network_sees(operator, y, sampler), sigma=sigma)
            return given.sample(how.draws, inference_steps=steps, **shown), f"{steps} inference steps"
        measured = Measurement(operator, y, GaussianNoise(sigma))
        if how.method == "gibbs":
            found = sampler.gibbs(measured, how.draws, steps=how.steps, resample=how.resample, **shown)
            words = f"{found.evaluations} evaluations a draw"
            if found.log_evidence is not None:
                words += f", log p(y) {found.log_evidence:.1f} from {found.roots:.1f} of {how.draws} starts"
            return found.samples, words
        steps = CHAIN_STEPS if how.steps is None else how.steps
        start = sampler.condition(operator, y, sigma=sigma).sample(how.draws, inference_steps=CONDITION_STEPS, **shown)
        shown["seed"] = Noise.of(self.seed, how.draws).fold(CONDITION_STEPS)
        draws = sampler.chain(measured, how.draws, steps=steps, tempering=None, start=start, **shown)
        return draws.samples, f"{CONDITION_STEPS} inference steps and {steps} of a chain"

    @property
    def words(self) -> str:
        """What was done to the image."""
        return self.damage.operator + (", black hides" if self.damage.operator.startswith("mask:") else "")


@final
@dataclass(frozen=True)
class Results:
    """What a restoration leaves: a picture of draws, mean and deviation, its draws as an .npz, and its cost in words.

    The .npz has the draws ``x`` [n, c, h, w] and the measurement ``y``, in [-1, 1].
    """

    picture: bytes
    draws: bytes
    cost: str

    @classmethod
    def of(
        cls, restorer: Restorer, operator: LinearOperator, y: Tensor, sigma: float, *, progress: bool = False
    ) -> Results:
        """Restore a measurement."""
        x, cost = restorer.draw(operator, y, sigma, progress=progress)
        kept = io.BytesIO()
        shown = png_bytes(picture(y, x, posterior_summary(x)))
        np.savez(kept, x=x.cpu().numpy(), y=y.cpu().numpy())
        return cls(shown, kept.getvalue(), cost)

    def write(self, out: Path, save_draws: Path | None) -> None:
        """The picture last, which says that all is there."""
        for place, data in ((save_draws, self.draws), (out, self.picture)):
            if place is not None:
                with written_whole(place) as path:
                    path.write_bytes(data)


def restored(restorer: Restorer, image: Path, out: Path, save_draws: Path | None) -> str:
    """Restore an image file into a picture, and its draws into ``save_draws``; what was done, for the user."""
    operator, y, sigma = restorer.measurement(image)
    started = time.perf_counter()
    found = Results.of(restorer, operator, y, sigma, progress=True)
    found.write(out, save_draws)
    seconds = time.perf_counter() - started
    return (
        f"{restorer.how.draws} draws given {image}: {restorer.words}, sigma {sigma:g} of images in [-1, 1], "
        f"{found.cost}, seed {restorer.seed}\n{seconds:.2f} s on {restorer.sampler.device}, written to {out}"
    )


def restored_file(
    image: Path, model: str, device: str | None, damage: Damage, how: Restoring, seed: int | None, out: Path,
    save_draws: Path | None,
) -> str:  # fmt: skip
    """Open a model and restore an image file."""
    for path in (out, save_draws):
        if path is not None:
            check_writable(path, image)
    restorer = Restorer.open(model, device, damage, how, fresh_seed() if seed is None else seed)
    return restored(restorer, image, out, save_draws)


def parse_operator(text: str, shape: tuple[int, ...]) -> tuple[LinearOperator, float]:
    """The operator that ``text`` names for images of ``shape`` [c, h, w], and the usual sigma of its noise."""
    named = named_operator(text, shape, lambda path: read_mask(path, (1, *shape[1:])))
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


def measured_shape(damage: LinearOperator, shape: tuple[int, ...]) -> tuple[int, ...]:
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
