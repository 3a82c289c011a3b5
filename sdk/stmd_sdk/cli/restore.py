"""``stmd restore``: images that could have produced a damaged one, their mean and their uncertainty."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import exit_on_error, say
from ..errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ..inference.summary import PosteriorSummary
    from ..operators import LinearOperator
    from ..sampler import Sampler

__all__ = ["as_the_network_sees", "parse_operator", "picture", "read_image", "restore"]

BLUR_SIGMA = 0.02  # of 8-bit images: undoing a blur without noise would amplify their rounding
OPERATORS = "mask:FILE, sr2, sr4, bicubic2, bicubic4, deblur[:DEVIATION], motion[:LENGTH[:ANGLE]], gray"


def restore(
    image: Annotated[Path, typer.Argument(help="The damaged image (small for sr4), or with --simulate a clean one.")],
    operator: Annotated[str, typer.Option(help=f"What damaged it: {OPERATORS}. In a mask black hides.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A bundled model's name, or a model file.")] = "mnist",
    draws: Annotated[int, typer.Option(help="How many restored images to draw.")] = 64,
    sigma: Annotated[
        float | None, typer.Option(help="Deviation of the noise, of images in -1 to 1; 0, or 0.02 for blurs.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Inference steps N.")] = 20,
    simulate: Annotated[bool, typer.Option(help="Damage the image first.")] = False,
    seed: Annotated[int | None, typer.Option(help="The seed; a fresh one, printed, by default.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png picture.")] = Path("restored.png"),
) -> None:
    """Draw what a damaged image may have been: one picture of the draws, their mean and deviation.

    [dim]stmd restore damaged.png --operator mask:mask.png[/dim]
    [dim]stmd restore digit.png --simulate --operator sr4 --draws 64 -o restored.png[/dim]
    """
    with exit_on_error():
        if out.suffix != ".png":
            raise InvalidArgumentError(f"--out must end in .png, got {str(out)!r}")
        from ..diffusion.noise import Noise, fresh_seed  # noqa: PLC0415
        from ..files import check_writable, written_whole  # noqa: PLC0415
        from ..inference.summary import posterior_summary  # noqa: PLC0415
        from ..sampler import Sampler  # noqa: PLC0415

        check_writable(out, image)
        sampler = Sampler.from_pretrained(model, device=device)
        shape = sampler.spec.codec.decoded_shape(sampler.spec.shape)
        if len(shape) != 3:
            raise InvalidArgumentError(f"{model} draws no images: restore them with Sampler.condition")
        damage, usual = parse_operator(operator, shape)
        sigma, seed = usual if sigma is None else sigma, fresh_seed() if seed is None else seed
        y = _read_as(image, shape if simulate else _measured(damage, shape))[None]
        if simulate:
            clean = damage.A(y)
            y = clean + sigma * Noise.of(seed, 1).fold(0).normal(*clean.shape[1:])
        elif operator.startswith("mask:"):
            y = damage.A(y)  # what the image shows under the mask is not measured
        started = time.perf_counter()
        conditioned = sampler.condition(*as_the_network_sees(damage, y, sampler), sigma=sigma)
        x = conditioned.sample(draws, inference_steps=steps, seed=seed, progress=True)
        with written_whole(out) as path:
            picture(y, x, posterior_summary(x)).save(path)
        hides = ", black hides" if operator.startswith("mask:") else ""
        noise = f"sigma {sigma:g} of images in [-1, 1]"
        say(f"{draws} draws given {image}: {operator}{hides}, {noise}, {steps} inference steps, seed {seed}")
        say(f"{time.perf_counter() - started:.2f} s on {sampler.device}, written to {out}")


def as_the_network_sees(damage: LinearOperator, y: Tensor, sampler: Sampler) -> tuple[LinearOperator, Tensor]:
    """The damage and its measurement in the model's own space: of latents, those cells whose pixels all show."""
    from ..codecs.codec import LatentCodec  # noqa: PLC0415
    from ..operators import Mask, check_measurement, latent_mask  # noqa: PLC0415

    codec, shape = sampler.spec.codec, sampler.spec.shape
    if not isinstance(codec, LatentCodec):
        return damage, y
    if not isinstance(damage, Mask):
        raise InvalidArgumentError("a model of latents restores masked images alone: give --operator mask:FILE")
    codec.prepare(shape)
    y = check_measurement(damage, y, codec.decoded_shape(shape), sampler.device)
    cells = Mask(latent_mask(damage.mask, codec.factor))
    return cells, cells.A(codec.encode(y))


def parse_operator(text: str, shape: tuple[int, ...]) -> tuple[LinearOperator, float]:
    """The operator that ``text`` names for images of ``shape`` [c, h, w], and the usual sigma of its noise."""
    from .. import operators  # noqa: PLC0415

    name, _, rest = text.partition(":")
    values = ([rest] if name == "mask" else rest.split(":")) if rest else []  # a file's name may have colons
    try:
        match name, [float(value) for value in values] if name != "mask" else values:
            case "mask", [file]:
                return operators.Mask(_read_mask(Path(str(file)), shape)), 0.0
            case (("sr2" | "sr4"), []):
                return operators.average_pool(shape, int(name[-1])), 0.0
            case (("bicubic2" | "bicubic4"), []):
                return operators.bicubic(shape, int(name[-1])), 0.0
            case "deblur", [*numbers] if len(numbers) <= 1:
                return operators.Blur.gaussian(*(numbers or [1.5])), BLUR_SIGMA  # type: ignore[reportArgumentType]
            case "motion", [*numbers] if len(numbers) <= 2:
                length, angle = [*numbers, *[9.0, 0.0][len(numbers) :]]
                return operators.Blur.motion(int(length), float(angle)), BLUR_SIGMA
            case "gray", []:
                if shape[0] != 3:
                    raise InvalidArgumentError(f"gray restores colour, and the model's images are {list(shape)}")
                return operators.Grayscale(), 0.0
            case _:
                pass
    except ValueError as error:
        if isinstance(error, (InvalidArgumentError, DataError)):
            raise
    raise InvalidArgumentError(f"--operator must be one of {OPERATORS}; got {text!r}")


def read_image(path: Path, channels: int) -> Tensor:
    """An image file as [c, h, w] in [-1, 1], in gray where c = 1."""
    from ..data.pictures import read_picture  # noqa: PLC0415

    return read_picture(path, channels)


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
    image = read_image(path, shape[0])
    if image.shape != shape:
        (_, height, width), (_, tall, wide) = image.shape, shape
        raise DataError(f"{path}: has {width}×{height} pixels, {wide}×{tall} are needed: resize or crop it")
    return image


def _measured(damage: LinearOperator, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape [c, h, w] of what an image of ``shape`` leaves."""
    import torch  # noqa: PLC0415

    return tuple(damage.A(torch.zeros(1, *shape)).shape[1:])


def picture(y: Tensor, draws: Tensor, summary: PosteriorSummary) -> Image.Image:
    """Measurement, mean and deviation above the draws, each labelled. y is [1, c, h, w], draws [n, c, h, w]."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415

    from ..images import grid  # noqa: PLC0415

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
