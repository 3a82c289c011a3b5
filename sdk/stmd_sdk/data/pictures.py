"""Pictures one after the other, square and of one size: for data too large to hold in memory as pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import DataError, requires_extra

__all__ = ["SUFFIXES", "stream_pictures"]

SUFFIXES = ".png", ".jpg", ".jpeg", ".webp"
CELEBA_FOLDER, CELEBA_SPLITS = "img_align_celeba", "list_eval_partition.txt"
CELEBA_CODES = {"train": "0", "test": "2"}


def stream_pictures(source: str | Path, size: int, *, split: str = "train", first: int = 0) -> Iterator[Tensor]:
    """Yield RGB pictures [3, size, size], 8-bit, from number ``first`` on, in an order that never changes.

    ``source`` is a folder of pictures, taken in the order of their names; CelebA's own folder, with
    ``img_align_celeba`` and ``list_eval_partition.txt``; or ``hf:ID[:column]``, which is streamed. Each is cropped
    to the square about its centre, and resized by Lanczos' filter. Raises :class:`DataError` for a file that is
    absent or damaged.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        opened = _streamed(source, split, first)
    else:
        opened = _files(Path(source), split, first)
    for name, picture in opened:
        yield _square(name, picture, size)


def _files(folder: Path, split: str, first: int) -> Iterator[tuple[str, Image.Image]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures; for CelebA give the folder that holds {CELEBA_FOLDER}")
    paths = _paths(folder, split)
    if not paths:
        raise DataError(f"{folder}: holds no pictures of the {split} split ({', '.join(SUFFIXES)})")
    for path in paths[first:]:
        try:
            with Image.open(path) as picture:
                picture.load()
                yield str(path), picture
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
            raise DataError(f"{path}: cannot be read as an image ({error})") from error


def _paths(folder: Path, split: str) -> list[Path]:
    pictures = folder / CELEBA_FOLDER if (folder / CELEBA_FOLDER).is_dir() else folder
    splits = folder / CELEBA_SPLITS
    if pictures != folder and not splits.is_file():
        raise DataError(f"{folder}: has no {CELEBA_SPLITS}, which says what CelebA's {split} split is")
    if not splits.is_file():
        return sorted(path for path in pictures.iterdir() if path.suffix.lower() in SUFFIXES)
    rows = [line.split() for line in splits.read_text().splitlines() if line.strip()]
    if not all(len(row) == 2 for row in rows):
        raise DataError(f"{splits}: damaged, its lines hold a name and a number")
    return [pictures / name for name, code in rows if code == CELEBA_CODES[split]]


def _streamed(source: str, split: str, first: int) -> Iterator[tuple[str, Image.Image]]:
    with requires_extra("datasets"):
        import datasets  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        from datasets.exceptions import DatasetsError  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    identifier, _, column = source.removeprefix("hf:").partition(":")
    try:
        rows: Any = datasets.load_dataset(identifier, split=split, streaming=True)
        for i, row in enumerate(rows.skip(first), start=first):
            named = column or next((name for name, value in row.items() if isinstance(value, Image.Image)), "")
            if not isinstance(row.get(named), Image.Image):
                raise DataError(f"{source}: has no column of images {column}; it has {', '.join(row)}")
            yield f"{source}, row {i}", row[named]
    except (OSError, ValueError, DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source}: cannot stream its {split} split ({error})") from error


def _square(name: str, picture: Image.Image, size: int) -> UInt8[Tensor, "3 size size"]:
    if picture.mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"{name}: must be an 8-bit grey or RGB image without transparency, is of mode {picture.mode}")
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    box = (left, top, left + side, top + side)
    square = picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())
