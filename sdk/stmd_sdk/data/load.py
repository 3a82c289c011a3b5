"""Data sets: the bundled digits, the analytic mixtures, IDX and .npz files, folders of images, Hugging Face.

Everything is checked when it is loaded: a damaged file, a NaN or a value out of range raises a
:class:`DataError` that names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..codecs.codec import PixelCodec, VectorCodec
from ..errors import DataError, InvalidArgumentError, requires_extra
from ..mixtures.law import MIXTURES, GaussianMixture, mixture
from .arrays import ArrayData, ShardedData
from .cifar import cifar_files, read_cifar
from .idx import idx_file, read_idx
from .latents import INDEX, load_latents
from .npz import npz_file, read_npz
from .pictures import SUFFIXES

__all__ = ["ArrayData", "ShardedData", "load_data"]

ASSETS = Path(__file__).parents[1] / "assets"
SPLITS = "train", "test"
HELD_OUT_DIGITS = 297
SOURCES = {  # the recipes' own names: where the data come from
    "mnist": "Put MNIST's four .gz files (https://yann.lecun.com/exdb/mnist, or torchvision's mirror "
    "https://ossci-datasets.s3.amazonaws.com/mnist/) into a folder, and give it with --data",
    "cifar10": "Unpack cifar-10-binary.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html), and give its folder "
    "with --data",
    "celeba-latents": "Get CelebA under its own terms (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), run "
    "stmd-cache-latents CELEBA_DIR --out celeba-latents, and give that folder with --data",
}


def load_data(source: str | Path, *, split: str = "train") -> ArrayData | ShardedData | GaussianMixture:
    """Load a data set by name, by path, or from Hugging Face.

    ``source`` is one of

    - ``"digits"``: the bundled 8×8 digits; the last 297 of 1797 are the test split.
    - ``"mixture2d"``, ``"mixture3"``, ``"mixture8"``, ``"mixture64"``: the analytic problems.
    - a folder with MNIST's IDX files, ``train-images-idx3-ubyte[.gz]`` and ``t10k-images-idx3-ubyte[.gz]``.
    - a folder with CIFAR-10's binary files, ``data_batch_1.bin`` to ``test_batch.bin``.
    - a folder with .npz files whose names end in the split, ``cifar10_train.npz`` and ``cifar10_test.npz``.
    - a folder of latents that ``stmd-cache-latents`` wrote.
    - an IDX file of images, gzipped or not.
    - an .npz file: its array ``images``, else ``x``, else its only array. 8-bit images [n, h, w] or
      [n, h, w, c], float images [n, c, h, w] in [-1, 1], or float vectors [n, d].
    - a folder of PNG, JPEG or WebP images of one size, in the order of their names.
    - ``"hf:ID"`` or ``"hf:ID:column"``: a data set that the package ``datasets`` can load, and its column of
      images (the first one by default).

    ``split`` is "train" or "test". A single file, a folder of images and a mixture are one set each, which is
    what its name says whichever split is asked for. Raises :class:`DataError` for data that are absent or
    damaged, :class:`MissingExtraError` where ``datasets`` is needed and not installed.
    """
    if split not in SPLITS:
        raise InvalidArgumentError(f"split must be 'train' or 'test', got {split!r}")
    if source in MIXTURES:
        return mixture(str(source))
    if source == "digits":
        return _digits(split)
    if isinstance(source, str) and source.startswith("hf:"):
        return _hugging_face(source, split)
    path = Path(source)
    if path.is_dir():
        return _folder(path, split)
    if not path.is_file():
        known = ", ".join(["digits", *MIXTURES])
        where = f". {SOURCES[str(source)]}" if source in SOURCES else ""
        raise DataError(f"{source}: no such file or folder, nor one of {known}, nor hf:ID{where}")
    return _npz(path) if path.suffix == ".npz" else _images(path.name, read_idx(path))


def _folder(path: Path, split: str) -> ArrayData | ShardedData:
    """The data of a folder, by what is in it."""
    if (path / INDEX).is_file():
        return load_latents(path)
    if (idx := idx_file(path, split)) is not None:
        return _images(path.name, read_idx(idx))
    if (files := cifar_files(path, split)) is not None:
        return _images(path.name, read_cifar(files)[0])
    if (npz := npz_file(path, split)) is not None:
        return _npz(npz)
    return _images(path.name, read_folder(path))


def _images(name: str, pixels: UInt8[np.ndarray, "n h w *c"]) -> ArrayData:
    """8-bit images, channels last or without channels, as a data set."""
    channels_last = pixels[..., None] if pixels.ndim == 3 else pixels
    array = np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2))
    return ArrayData(name, torch.from_numpy(array), PixelCodec())


def _digits(split: str) -> ArrayData:
    """The 8×8 digits of scikit-learn's ``load_digits``, values v in 0..16 as v/8 - 1.

    A copy of the test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI
    Machine Learning Repository, CC BY 4.0), made by
    ``np.savez_compressed("digits.npz", images=load_digits().images.astype(np.uint8))``.
    """
    with np.load(ASSETS / "digits.npz", allow_pickle=False) as file:
        images = torch.from_numpy(file["images"])[:, None] / 8 - 1
    train = split == "train"
    return ArrayData("digits", images[:-HELD_OUT_DIGITS] if train else images[-HELD_OUT_DIGITS:], PixelCodec())


def _npz(path: Path) -> ArrayData:
    """The data of an .npz file."""
    array = read_npz(path)
    if array.size == 0:
        raise DataError(f"{path}: holds no samples, its array has shape {list(array.shape)}")
    if array.dtype == np.uint8:
        if array.ndim != 3 and not (array.ndim == 4 and array.shape[3] in (1, 3)):
            raise DataError(f"{path}: 8-bit images have shape [n, h, w] or [n, h, w, 1 or 3], got {list(array.shape)}")
        return _images(path.name, array)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path}: the array must be uint8 or floating, got {array.dtype}")
    return _floats(path, torch.from_numpy(array.astype(np.float32)))


def _floats(path: Path, array: Tensor) -> ArrayData:
    """Float images or vectors, once their values are checked."""
    if array.ndim not in (2, 4):
        raise DataError(f"{path}: floats are images [n, c, h, w] or vectors [n, d], got shape {list(array.shape)}")
    if not bool(array.isfinite().all()):
        raise DataError(f"{path}: has values that are NaN or infinite")
    if array.ndim == 2:
        return ArrayData(path.name, array, VectorCodec())
    if array.shape[3] in (1, 3) and array.shape[1] > 4:
        raise DataError(f"{path}: float images are channels first, [n, c, h, w], got shape {list(array.shape)}")
    low, high = float(array.min()), float(array.max())
    if low < -1 or high > 1:
        raise DataError(f"{path}: float images lie in [-1, 1], got values from {low:g} to {high:g}")
    if low >= 0 and high > 0:
        raise DataError(f"{path}: float images lie in [-1, 1], none of these is negative; map x in [0, 1] to 2 x - 1")
    return ArrayData(path.name, array, PixelCodec())


def read_folder(folder: Path) -> UInt8[np.ndarray, "n h w *c"]:
    """Read the images of a folder, sorted by name."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: holds no MNIST IDX files and no images ({', '.join(SUFFIXES)})")
    return _stack(((str(path), lambda path=path: Image.open(path)) for path in paths), len(paths))


def _stack(images: Iterable[tuple[str, Callable[[], Image.Image]]], n: int) -> UInt8[np.ndarray, "n h w *c"]:
    """Decode ``n`` images, given as (name, function that opens it), all of the first one's shape."""
    array = np.empty(0, np.uint8)
    for i, (name, open_image) in enumerate(images):
        try:
            with open_image() as image:
                pixels = _pixels(name, image)
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{name}: cannot be read as an image ({error})") from error
        if i == 0:
            array = np.empty((n, *pixels.shape), np.uint8)
        if pixels.shape != array.shape[1:]:
            raise DataError(
                f"{name}: all images must have one size and kind, this is {list(pixels.shape)} "
                f"and the first {list(array.shape[1:])}"
            )
        array[i] = pixels
    return array


def _pixels(name: str, image: Image.Image) -> UInt8[np.ndarray, "h w *c"]:
    """The pixels of one 8-bit image: grey [h, w] or RGB [h, w, 3]."""
    if image.mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"{name}: must be an 8-bit grey or RGB image without transparency, is of mode {image.mode}")
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _hugging_face(source: str, split: str) -> ArrayData:
    """A column of images of a data set that ``datasets`` loads."""
    with requires_extra("datasets"):
        import datasets  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        from datasets.exceptions import DatasetsError  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    identifier, _, column = source.removeprefix("hf:").partition(":")
    try:
        rows = datasets.load_dataset(identifier, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"{source}: cannot load its {split} split ({error})") from error
    pictures = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
    if (column and column not in pictures) or not pictures:
        raise DataError(f"{source}: has no column of images {column}; it has {', '.join(pictures) or 'none'}")
    column = column or pictures[0]
    named = ((f"{source}, row {i}", lambda i=i: rows[i][column]) for i in range(len(rows)))
    return _images(identifier, _stack(named, len(rows)))
