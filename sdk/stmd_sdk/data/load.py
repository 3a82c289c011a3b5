"""Data sets: the bundled digits, the analytic mixtures, IDX and .npz files, folders of images, Hugging Face.

Everything is checked when it is loaded: a damaged file, a NaN or a value out of range raises a
:class:`DataError` that names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ..codecs.codec import PixelCodec, VectorCodec
from ..errors import DataError, InvalidArgumentError
from ..files import bundled_name, is_file, is_folder
from ..mixtures.law import GaussianMixture
from ..mixtures.problems import MIXTURES, mixture
from .arrays import ArrayData, ShardedData
from .cifar import cifar_files, read_cifar
from .hugging_face import open_column
from .idx import idx_file, read_idx
from .latents import INDEX, load_latents
from .npz import npz_file, read_npz
from .pictures import as_seen, check_range, open_picture, picture_paths

__all__ = ["ArrayData", "ShardedData", "load_data"]

ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED_DATA = "digits", *MIXTURES
SPLITS = "train", "test"
HELD_OUT_DIGITS = 297
TRAIN_IMAGES = "train-images-idx3-ubyte[.gz]"
ROUNDING = 1e-6  # of floats that were computed to lie in [-1, 1]
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
    - a folder of PNG, JPEG, WebP, BMP, TIFF or GIF images of one size, in the order of their names; or of folders of
      them: ``train`` and ``test``, or one a class, whose names :func:`stmd_sdk.data.load_labels` reads.
    - ``"hf:ID[#CONFIG][:column]"``: a data set that the package ``datasets`` can load, and its column of images (the
      first one by default).

    A bundled name that is a file or folder here too is refused: ``./digits`` is the folder, ``bundled:digits`` the
    bundled data.

    ``split`` is "train" or "test". A single file, a folder of images and a mixture are one set each, which is
    what its name says whichever split is asked for. Raises :class:`DataError` for data that are absent or
    damaged, :class:`MissingExtraError` where ``datasets`` is needed and not installed.
    """
    if split not in SPLITS:
        raise InvalidArgumentError(f"split must be 'train' or 'test', got {split!r}")
    name = bundled_name(source, BUNDLED_DATA, DataError)
    if name is not None:
        return _digits(split) if name == "digits" else mixture(name)
    if isinstance(source, str) and source.startswith("hf:"):
        return _hugging_face(source, split)
    path = Path(source)
    if is_folder(path, DataError):
        return _folder(path, split)
    if not is_file(path, DataError):
        known = ", ".join(BUNDLED_DATA)
        where = f". {SOURCES[str(source)]}" if source in SOURCES else ""
        raise DataError(f"{source}: no such file or folder, nor one of {known}, nor hf:ID{where}")
    return _npz(path) if path.suffix == ".npz" else _images(path.name, read_idx(path))


def _folder(path: Path, split: str) -> ArrayData | ShardedData:
    """The data of a folder, by what is in it."""
    if is_file(path / INDEX, DataError):
        return load_latents(path)
    if (idx := idx_file(path, split)) is not None:
        return _images(path.name, read_idx(idx))
    if (files := cifar_files(path, split)) is not None:
        return _images(path.name, read_cifar(files)[0])
    if (npz := npz_file(path, split)) is not None:
        return _npz(npz)
    return _images(path.name, read_folder(path, split))


def _images(name: str, pixels: UInt8[np.ndarray, "n h w *c"]) -> ArrayData:
    """8-bit images, channels last or without channels, as a data set."""
    check_range(name, pixels)
    channels_last = pixels[..., None] if pixels.ndim == 3 else pixels
    array = np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2))
    return ArrayData(name, torch.from_numpy(array), PixelCodec())


def _digits(split: str) -> ArrayData:
    """The 8×8 digits of scikit-learn's ``load_digits``, values v in 0..16 as v/8 - 1.

    A copy of the test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI
    Machine Learning Repository, CC BY 4.0), made by
    ``np.savez_compressed("digits.npz", images=load_digits().images.astype(np.uint8),
    labels=load_digits().target.astype(np.uint8))``.
    """
    images = torch.from_numpy(read_digits("images", split))[:, None] / 8 - 1
    return ArrayData("digits", images, PixelCodec())


def read_digits(array: Literal["images", "labels"], split: str) -> UInt8[np.ndarray, "n *d"]:
    """One of the bundled arrays of digits; the last of them are the test split."""
    with np.load(ASSETS / "digits.npz", allow_pickle=False) as file:
        return file[array][:-HELD_OUT_DIGITS] if split == "train" else file[array][-HELD_OUT_DIGITS:]


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
    if low < -1 - ROUNDING or high > 1 + ROUNDING:
        raise DataError(f"{path}: float images lie in [-1, 1], got values from {low:.9g} to {high:.9g}")
    if low >= 0 and high > 0:
        raise DataError(f"{path}: float images lie in [-1, 1], none of these is negative; map x in [0, 1] to 2 x - 1")
    return ArrayData(path.name, array.clamp(-1, 1), PixelCodec())


def read_folder(folder: Path, split: str) -> UInt8[np.ndarray, "n h w *c"]:
    """Read the images of a folder, in the order of :func:`picture_paths`."""
    paths = picture_paths(folder, split)
    if not paths:
        raise DataError(f"{folder}: holds no images, nor MNIST's IDX files ({TRAIN_IMAGES} and its like)")
    return _stack(((str(path), lambda path=path: open_picture(path)) for path in paths), len(paths))


def _stack(images: Iterable[tuple[str, Callable[[], Image.Image]]], n: int) -> UInt8[np.ndarray, "n h w *c"]:
    """``n`` pictures, given as (name, function that opens it), all of the first one's shape: grey or RGB."""
    array = np.empty(0, np.uint8)
    for i, (name, open_image) in enumerate(images):
        pixels = np.asarray(open_image())
        if i == 0:
            array = np.empty((n, *pixels.shape), np.uint8)
        if pixels.shape != array.shape[1:]:
            raise DataError(
                f"{name}: all images must have one size and kind, this is {list(pixels.shape)} "
                f"and the first {list(array.shape[1:])}"
            )
        array[i] = pixels
    return array


def _hugging_face(source: str, split: str) -> ArrayData:
    """A column of images of a data set that ``datasets`` loads."""
    n, rows = open_column(source, split)
    opened = ((name, lambda name=name, content=content: as_seen(name, content)) for name, content in rows)
    return _images(source, _stack(opened, n or 0))
