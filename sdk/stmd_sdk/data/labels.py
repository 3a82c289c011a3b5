"""The labels beside the samples of a data set: for conditional models, and the classifiers that evaluation has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..diffusion.classes import Classes
from ..errors import DataError, InvalidArgumentError
from ..files import bundled_name, is_folder
from .arrays import ArrayData, ShardedData
from .cifar import CIFAR_NAMES, cifar_files, read_cifar
from .hugging_face import open_labels
from .idx import idx_file, read_idx
from .load import BUNDLED_DATA, SPLITS, load_data, read_digits
from .npz import npz_file, read_npz
from .pictures import classes_of_folders

__all__ = ["labels_for", "load_labelled_data", "load_labels"]


def load_labels(source: str | Path, *, split: str = "train") -> Int[Tensor, " n"]:
    """The labels of the samples that :func:`load_data` gives, in their order: integers from 0 on.

    Those of the bundled digits, of a folder of MNIST's or CIFAR-10's files, of an .npz file with an array ``labels``,
    of a folder of folders of pictures, one a class in the order of their names, and of ``hf:`` data the first column of
    class labels. Raises :class:`DataError` where there are none.
    """
    return _labels_and_names(source, split)[0]


def load_labelled_data(source: str | Path, *, split: str = "train") -> ArrayData | ShardedData:
    """What :func:`load_data` gives, with its labels and the names of their classes, where these are known.

    Those of a folder of latents lie beside them. Raises :class:`DataError` where there are no labels, or not as many
    as samples.
    """
    data = load_data(source, split=split)
    if isinstance(data, ShardedData):
        if data.labels is None:
            raise DataError(f"{source}: has latents without labels: cache them from a folder with one folder a class")
        return data
    labels, names = _labels_and_names(source, split)
    if not isinstance(data, ArrayData):
        raise DataError(f"{source}: has no labels")
    if len(labels) != len(data):
        raise DataError(f"{source}: has {len(data)} samples and {len(labels)} labels")
    return replace(data, labels=labels, class_names=names)


def labels_for(data: ArrayData | ShardedData, classes: Classes) -> Int[Tensor, " n"]:
    """The labels of a data set in the numbers of a model's classes: by name where both have names.

    Raises :class:`DataError` for data without labels, and for classes that the model does not have.
    """
    if data.labels is None:
        raise DataError(f"{data.name}: has no labels")
    named = data.class_names if classes.names else ()
    if strange := [name for name in named if name not in classes.names]:
        raise DataError(f"{data.name}: has a class {strange[0]}, and the model's are {', '.join(classes.names)}")
    if not named and (most := int(data.labels.max())) >= classes.count:
        raise DataError(f"{data.name}: has labels up to {most}, and the model's are 0 to {classes.count - 1}")
    return torch.tensor([classes.number(name) for name in named])[data.labels] if named else data.labels


def _labels_and_names(source: str | Path, split: str) -> tuple[Int[Tensor, " n"], tuple[str, ...]]:
    if split not in SPLITS:
        raise InvalidArgumentError(f"split must be 'train' or 'test', got {split!r}")
    if (name := bundled_name(source, BUNDLED_DATA, DataError)) is not None:
        if name == "digits":
            return _checked(Path(name), read_digits("labels", split)), ()
        raise DataError(f"{name}: is a law, and has no labels")
    if isinstance(source, str) and source.startswith("hf:"):
        labels, names = open_labels(source, split)
        return _checked(Path(source), np.asarray(labels)), names
    path = Path(source)
    if is_folder(path, DataError):
        if (idx := idx_file(path, split, "labels")) is not None:
            return _checked(path, read_idx(idx, "labels")), ()
        if (files := cifar_files(path, split)) is not None:
            return _checked(path, read_cifar(files)[1]), CIFAR_NAMES
        if (npz := npz_file(path, split)) is None:
            if (found := classes_of_folders(path, split)) is None:
                raise DataError(f"{path}: has no labels; its pictures would lie in folders, one a class")
            return found
        path = npz
    if path.suffix != ".npz":
        raise DataError(
            f"{source}: has no labels; MNIST's IDX files, CIFAR-10's binary files, .npz files with an array labels and "
            "folders of pictures, one a class, have"
        )
    return _checked(path, read_npz(path, ("labels",))), ()


def _checked(path: Path, labels: np.ndarray) -> Int[Tensor, " n"]:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise DataError(f"{path}: labels are integers from 0 on, one a sample, got {labels.dtype} {list(labels.shape)}")
    return torch.from_numpy(labels.astype(np.int64))
