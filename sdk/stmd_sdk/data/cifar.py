"""CIFAR-10 in its binary version: files of records, each a label and then 3×32×32 pixels, channels first.

From ``cifar-10-binary.tar.gz`` of https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, 2009).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ..errors import DataError
from ..files import is_file, read_bytes

__all__ = ["CIFAR_NAMES", "cifar_files", "read_cifar"]

CIFAR_NAMES = "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"

FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
RECORD, MOST = 1 + 3 * 32 * 32, 2**31


def cifar_files(folder: Path, split: str) -> list[Path] | None:
    """The files of ``split``, None in a folder of anything else."""
    if not any(is_file(folder / name, DataError) for names in FILES.values() for name in names):
        return None
    missing = [name for name in FILES[split] if not is_file(folder / name, DataError)]
    if missing:
        raise DataError(f"{folder}: has no {missing[0]} for the {split} split of CIFAR-10")
    return [folder / name for name in FILES[split]]


def read_cifar(paths: list[Path]) -> tuple[UInt8[np.ndarray, "n 32 32 3"], UInt8[np.ndarray, " n"]]:
    """The images of some files, channels last, and their labels."""
    records: list[UInt8[np.ndarray, "n bytes"]] = []
    for path in paths:
        content = read_bytes(path, DataError, MOST)
        if not content or len(content) % RECORD:
            raise DataError(f"{path}: damaged, {len(content)} bytes are no whole number of records of {RECORD}")
        records.append(np.frombuffer(content, np.uint8).reshape(-1, RECORD))
    joined = np.concatenate(records)
    images = joined[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), joined[:, 0].copy()
