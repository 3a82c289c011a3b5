"""MNIST's IDX files, gzipped or not (LeCun, Cortes and Burges, 1998)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ..errors import DataError

__all__ = ["IDX_KINDS", "idx_file", "read_idx"]

STEMS = {
    ("images", "train"): "train-images-idx3-ubyte",
    ("images", "test"): "t10k-images-idx3-ubyte",
    ("labels", "train"): "train-labels-idx1-ubyte",
    ("labels", "test"): "t10k-labels-idx1-ubyte",
}
IDX_KINDS: dict[str, int] = {"images": 3, "labels": 1}
"""The dimensions of each kind of file."""

IdxKind = Literal["images", "labels"]


def idx_file(folder: Path, split: str, kind: IdxKind = "images") -> Path | None:
    """The IDX file of ``split`` in a folder of MNIST's, None in a folder of anything else."""
    found = {
        name: path
        for (kind_of, name), stem in STEMS.items()
        for known in (stem, stem.replace("-idx", ".idx"))  # as some archives name them
        for path in (folder / f"{known}.gz", folder / known)
        if kind_of == kind and path.is_file()
    }
    if found and split not in found:
        stem = STEMS[kind, split]
        raise DataError(f"{folder}: has no {stem} nor {stem}.gz for the {split} split")
    return found.get(split)


def read_idx(path: Path, kind: IdxKind = "images") -> UInt8[np.ndarray, "n *hw"]:
    """Read an IDX file of bytes: 00 00 08, the number of dimensions, each as a big-endian word, then the bytes."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, it may be truncated or damaged ({error})") from error
    dimensions = IDX_KINDS[kind]
    magic, header = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if content[:4] != magic:
        raise DataError(
            f"{path}: not an IDX file of {kind}, it begins with {content[:4].hex(' ') or 'nothing'} "
            f"instead of {magic.hex(' ')}"
        )
    if len(content) < header:
        raise DataError(f"{path}: truncated, its header has {len(content)} bytes instead of {header}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    sizes = "×".join(map(str, shape))
    if min(shape) == 0:
        raise DataError(f"{path}: holds no {kind}, its header says {sizes}")
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: damaged, its header says {sizes} bytes, "
            f"but {len(content) - header} follow instead of {math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
