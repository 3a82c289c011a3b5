"""Pictures, read as they look: the one place that opens them, for data sets, streams and measurements alike."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError
from ..files import brief, is_folder, read_bytes, reading
from .hugging_face import open_column

__all__ = [
    "as_seen",
    "check_range",
    "classes_of_folders",
    "mask_of",
    "open_picture",
    "picture_as",
    "picture_paths",
    "read_mask",
    "read_picture",
    "read_picture_as",
    "stream_pictures",
]

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MOST_BYTES, MOST_PIXELS = 2**29, 2**26
SPLIT_NAMES = "train", "test", "val", "valid", "validation"
CELEBA_FOLDER, CELEBA_SPLITS = "img_align_celeba", "list_eval_partition.txt"
CELEBA_CODES = {"train": "0", "test": "2"}


def read_picture(path: Path, channels: int) -> Float[Tensor, "c h w"]:
    """A picture's file as [c, h, w] in [-1, 1], in grey where ``channels`` is 1. Raises :class:`DataError`."""
    return _values(str(path), open_picture(path), channels)


def _values(name: str, picture: Image.Image, channels: int) -> Float[Tensor, "c h w"]:
    pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    check_range(name, pixels)
    values = torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1
    return values.reshape(*pixels.shape[:2], channels).permute(2, 0, 1).contiguous()


def read_picture_as(path: Path, shape: tuple[int, ...]) -> Float[Tensor, "c h w"]:
    """A picture's file of exactly this shape [c, h, w], in [-1, 1]."""
    return picture_as(str(path), read_bytes(path, DataError, MOST_BYTES), shape)


def picture_as(
    name: str, content: bytes, shape: tuple[int, ...], most_pixels: int = MOST_PIXELS
) -> Float[Tensor, "c h w"]:
    """The picture of a file's ``content``, of exactly this shape [c, h, w], in [-1, 1]."""
    image = _values(name, as_seen(name, content, most_pixels), shape[0])
    if image.shape != shape:
        (_, height, width), (_, tall, wide) = image.shape, shape
        raise DataError(f"{name}: has {width}×{height} pixels, {wide}×{tall} are needed: resize or crop it")
    return image


def read_mask(path: Path, shape: tuple[int, ...]) -> Float[Tensor, "1 h w"]:
    """A picture of a mask of ``shape`` [1, h, w]: 0 where it is black, which hides, 1 where it is white."""
    return mask_of(str(path), read_bytes(path, DataError, MOST_BYTES), shape)


def mask_of(
    name: str, content: bytes, shape: tuple[int, ...], most_pixels: int = MOST_PIXELS
) -> Float[Tensor, "1 h w"]:
    """The mask of a file's ``content``, as :func:`read_mask`."""
    mask = (picture_as(name, content, shape, most_pixels) + 1) / 2
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError(
            f"{name}: a mask must be black (0), which hides, and white (255) alone; it has the values "
            f"{', '.join(f'{255 * value:.0f}' for value in mask.unique()[:4].tolist())}"
            f"{', …' if len(mask.unique()) > 4 else ''}"
        )
    return mask


def open_picture(path: Path) -> Image.Image:
    """The picture of a file, of mode L or RGB, as it looks. Raises :class:`DataError` for what cannot be read so."""
    return as_seen(str(path), read_bytes(path, DataError, MOST_BYTES))


def as_seen(name: str, content: bytes, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The picture of a file's ``content``, of mode L or RGB: turned as its EXIF data say, and all of it opaque.

    Raises :class:`DataError` for a picture with transparency, several frames, more than 8 bits a channel or another
    space of colours, which would be read otherwise than it looks, and for one that is damaged or has more than
    ``most_pixels``, before its pixels are decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are refused here, and of damaged metadata
            picture = Image.open(io.BytesIO(content), formats=tuple(FORMATS))
            if picture.width * picture.height > most_pixels:
                raise DataError(f"{name}: has {picture.width}×{picture.height} pixels, more than {most_pixels}")
            if getattr(picture, "n_frames", 1) != 1:
                raise DataError(f"{name}: has {getattr(picture, 'n_frames', 1)} frames; save the one that you mean")
            picture.load()
            return _plain(name, ImageOps.exif_transpose(picture))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: cannot be read as an image (damaged, or no {', '.join(FORMATS)})") from error
    except Exception as error:  # a damaged picture can raise anything
        raise DataError(f"{name}: cannot be read as an image ({brief(str(error) or type(error).__name__)})") from error


def _plain(name: str, picture: Image.Image) -> Image.Image:
    """The picture without its alpha channel, which must hide nothing."""
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise DataError(
                f"{name}: has transparent pixels (mode {picture.mode}), and nothing says what is behind them: save it "
                "without"
            )
        return picture.convert("L" if picture.mode == "LA" else "RGB")
    if picture.mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"{name}: must be an 8-bit grey or RGB image, is of mode {picture.mode}; save it as one")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def check_range(name: str, pixels: UInt8[np.ndarray, "*dims"]) -> None:
    """Raise where 8-bit values are those of a mask or of classes, all 0 or 1: read as greys they would all be black."""
    if pixels.size and pixels.max() == 1:
        raise DataError(f"{name}: its values are 0 and 1, and an image's go from 0 to 255: save it with 0 and 255")


def picture_paths(folder: Path, split: str) -> list[Path]:
    """The pictures of a folder in the order of their names, hidden files left out; empty where it has none.

    Those of CelebA's own folder are the ones that its list gives for ``split``. A folder without pictures of its own
    stands for its folder ``split``, where it has one, and else for all its folders, as those of classes are.
    Raises :class:`DataError` where it is in doubt which pictures are meant.
    """
    with reading(folder, DataError):
        if is_folder(folder / CELEBA_FOLDER, DataError) or (folder / CELEBA_SPLITS).is_file():
            return _celeba(folder, split)
        shown = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        paths = [path for path in shown if path.suffix.lower() in SUFFIXES]
        below = [path for path in shown if path.is_dir()]
        splits = [path for path in below if path.name in SPLIT_NAMES]
        inner = {path: picture_paths(path, split) for path in below if path.name == split or not splits}
        if paths and (found := next((path for path in below if inner.get(path)), None)):
            raise DataError(f"{folder}: has pictures, and others in {found.name}: give a folder of those that you mean")
        if not paths and splits and not any(path.name == split for path in splits):
            raise DataError(f"{folder}: has no folder {split}, only {', '.join(path.name for path in splits)}")
        other = [path for path in shown if path.suffix.lower() in _known() and path.suffix.lower() not in SUFFIXES]
        if other:
            raise DataError(f"{other[0]}: pictures of this kind are not read, only {', '.join(SUFFIXES)}")
        return paths or [path for found in inner.values() for path in found]


def classes_of_folders(folder: Path, split: str) -> tuple[Int[Tensor, " n"], tuple[str, ...]] | None:
    """The classes of a folder's pictures, and their names: the folders that they lie in, below the split's if any.

    None where they do not all lie in folders.
    """
    below = [path.relative_to(folder).parts[:-1] for path in picture_paths(folder, split)]
    if below and all(parts[:1] == (split,) for parts in below):
        below = [parts[1:] for parts in below]
    if not below or not all(below):
        return None
    names = tuple(sorted({parts[0] for parts in below}))
    order = {name: label for label, name in enumerate(names)}
    return torch.tensor([order[parts[0]] for parts in below]), names


def _known() -> set[str]:
    """The suffixes of pictures that Pillow knows."""
    documents = {".pdf", ".h5", ".hdf", ".mpg", ".mpeg"}  # more often no picture
    return set(Image.registered_extensions()) - documents


def _celeba(folder: Path, split: str) -> list[Path]:
    pictures = folder / CELEBA_FOLDER if (folder / CELEBA_FOLDER).is_dir() else folder
    splits = folder / CELEBA_SPLITS
    if not splits.is_file():
        raise DataError(f"{folder}: has no {CELEBA_SPLITS}, which says what CelebA's {split} split is")
    text = read_bytes(splits, DataError, MOST_BYTES).decode(errors="replace")
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not all(len(row) == 2 for row in rows):
        raise DataError(f"{splits}: damaged, its lines hold a name and a number")
    return [pictures / name for name, code in rows if code == CELEBA_CODES[split]]


def stream_pictures(source: str | Path, size: int, *, split: str = "train", first: int = 0) -> Iterator[Tensor]:
    """Yield RGB pictures [3, size, size], 8-bit, from number ``first`` on, in an order that never changes.

    ``source`` is a folder of pictures (see :func:`picture_paths`), or ``hf:ID[#CONFIG][:column]``, which is streamed.
    Each is cropped to the square about its centre, and resized by Lanczos' filter. Raises :class:`DataError` for a file
    that is absent, damaged or not read as it looks.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        _, rows = open_column(source, split, streaming=True, first=first)
        for name, content in rows:
            yield _square(as_seen(name, content), size)
        return
    folder = Path(source)
    if not is_folder(folder, DataError):
        raise DataError(f"{folder}: no such folder of pictures; for CelebA give the folder that holds {CELEBA_FOLDER}")
    paths = picture_paths(folder, split)
    if not paths:
        raise DataError(f"{folder}: holds no pictures of the {split} split ({', '.join(SUFFIXES)})")
    for path in paths[first:]:
        yield _square(open_picture(path), size)


def _square(picture: Image.Image, size: int) -> UInt8[Tensor, "3 size size"]:
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    box = (left, top, left + side, top + side)
    square: Any = picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())
