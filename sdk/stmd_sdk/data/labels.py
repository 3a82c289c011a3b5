"""The labels beside the images of a data set: for the classifiers that evaluation measures with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import DataError
from ..files import is_folder
from .cifar import cifar_files, read_cifar
from .idx import idx_file, read_idx
from .npz import npz_file, read_npz

__all__ = ["load_labels"]


def load_labels(source: str | Path, *, split: str = "train") -> Int[Tensor, " n"]:
    """The labels of a folder of MNIST's or CIFAR-10's files, or of an .npz file with an array ``labels``.

    In the order in which :func:`load_data` gives the images. Raises :class:`DataError` where there are none.
    """
    path = Path(source)
    if is_folder(path, DataError):
        if (idx := idx_file(path, split, "labels")) is not None:
            return _checked(path, read_idx(idx, "labels"))
        if (files := cifar_files(path, split)) is not None:
            return _checked(path, read_cifar(files)[1])
        path = npz_file(path, split) or path
    if path.suffix != ".npz":
        raise DataError(f"{source}: has no labels; MNIST's IDX files, CIFAR-10's binary files and .npz files have")
    return _checked(path, read_npz(path, ("labels",)))


def _checked(path: Path, labels: np.ndarray) -> Int[Tensor, " n"]:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise DataError(f"{path}: labels are integers from 0 on, one an image, got {labels.dtype} {list(labels.shape)}")
    return torch.from_numpy(labels.astype(np.int64))
