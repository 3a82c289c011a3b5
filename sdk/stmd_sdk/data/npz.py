"""Arrays of .npz files, read without pickle."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from ..errors import DataError
from ..files import brief, check_regular, reading

__all__ = ["DEFLATED_MOST", "npz_file", "read_npz"]

DEFLATED_MOST = 1032
"""How many bytes one byte of zlib's can stand for: what a header asks for beyond that is no longer read."""


def npz_file(folder: Path, split: str) -> Path | None:
    """The one .npz file whose name ends in the split's, as in ``cifar10_train.npz``; None where there is none."""
    with reading(folder, DataError):
        archives = [path for path in folder.iterdir() if path.suffix == ".npz"]
    found = sorted(path for path in archives if path.stem.endswith(split))
    if len(found) > 1:
        raise DataError(f"{folder}: has several .npz files of the {split} split; give the path of one")
    if not found and archives:
        raise DataError(f"{folder}: has no .npz file whose name ends in {split}, as in cifar10_{split}.npz")
    return found[0] if found else None


def read_npz(path: Path, names: tuple[str, ...] = ("images", "x")) -> np.ndarray:
    """The first of the arrays ``names`` that is there, else the only one."""
    check_regular(path, DataError)
    try:
        with path.open("rb") as stream:
            # np.load takes a bare .npy too, and leaks the file of a damaged archive that it opens itself.
            file = NpzFile(stream, allow_pickle=False)
            named = [name for name in names if name in file.files]
            if named or len(file.files) == 1:
                return _array(file, (named or file.files)[0], path.stat().st_size)
            found = ", ".join(file.files) or "none"
    except Exception as error:  # a damaged archive, header or type can raise anything
        what = brief(" ".join(str(error).split()) or type(error).__name__)
        raise DataError(f"{path}: cannot be read as .npz, it may be truncated or damaged ({what})") from error
    raise DataError(f"{path}: needs an array called {' or '.join(names)}, has {brief(found)}")


def _array(file: NpzFile, name: str, length: int) -> np.ndarray:
    """An array of an archive of ``length`` bytes, once its header asks for no more than so many bytes can hold."""
    assert file.zip is not None
    member = file.zip.getinfo(name if name in file.zip.namelist() else f"{name}.npy")
    with file.zip.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    asked = math.prod(shape) * dtype.itemsize
    if asked > min(member.file_size, length * DEFLATED_MOST):
        raise ValueError(f"its header asks for {asked:.3g} bytes, more than the file can hold")
    array = file[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is no array")
    return array
