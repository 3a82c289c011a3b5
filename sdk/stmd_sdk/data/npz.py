"""Arrays of .npz files, read without pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import DataError

__all__ = ["npz_file", "read_npz"]


def npz_file(folder: Path, split: str) -> Path | None:
    """The one .npz file whose name ends in the split's, as in ``cifar10_train.npz``; None where there is none."""
    found = sorted(path for path in folder.glob("*.npz") if path.stem.endswith(split))
    if len(found) > 1:
        raise DataError(f"{folder}: has several .npz files of the {split} split; give the path of one")
    if not found and any(folder.glob("*.npz")):
        raise DataError(f"{folder}: has no .npz file whose name ends in {split}, as in cifar10_{split}.npz")
    return found[0] if found else None


def read_npz(path: Path, names: tuple[str, ...] = ("images", "x")) -> np.ndarray:
    """The first of the arrays ``names`` that is there, else the only one."""
    try:
        with path.open("rb") as stream:
            # np.load takes a bare .npy too, and leaks the file of a damaged archive that it opens itself.
            file = np.lib.npyio.NpzFile(stream, allow_pickle=False)
            named = [name for name in names if name in file.files]
            if named or len(file.files) == 1:
                array = file[(named or file.files)[0]]
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{named or file.files} is no array")
                return array
            found = ", ".join(file.files) or "none"
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as .npz, it may be truncated or damaged ({error})") from error
    raise DataError(f"{path}: needs an array called {' or '.join(names)}, has {found}")
