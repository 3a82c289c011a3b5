"""MNIST's IDX files, gzipped or not (LeCun, Cortes and Burges, 1998)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ..errors import DataError
from ..files import check_regular, is_file
from .npz import DEFLATED_MOST

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
        if kind_of == kind and is_file(path, DataError)
    }
    if found and split not in found:
        stem = STEMS[kind, split]
        raise DataError(f"{folder}: has no {stem} nor {stem}.gz for the {split} split")
    return found.get(split)


def read_idx(path: Path, kind: IdxKind = "images") -> UInt8[np.ndarray, "n *hw"]:
    """Read an IDX file of bytes: 00 00 08, the number of dimensions, each as a big-endian word, then the bytes."""
    check_regular(path, DataError)
    dimensions = IDX_KINDS[kind]
    magic, length = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            most = path.stat().st_size * (DEFLATED_MOST if packed else 1)
            with gzip.open(file) if packed else nullcontext(file) as stream:
                header = stream.read(length)
                shape = _shape(path, header, magic, kind)
                # What the header says is compared with what the file can hold before so much is read.
                content = stream.read(math.prod(shape) + 1) if math.prod(shape) <= most else b""
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, it may be truncated or damaged ({error})") from error
    if len(content) != math.prod(shape):
        follow = "more follow" if len(content) > math.prod(shape) else f"at most {len(content) or most} follow"
        raise DataError(f"{path}: damaged, its header says {'×'.join(map(str, shape))} bytes, but {follow}")
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def _shape(path: Path, header: bytes, magic: bytes, kind: IdxKind) -> tuple[int, ...]:
    """The shape that a header says."""
    if header[:4] != magic:
        raise DataError(
            f"{path}: not an IDX file of {kind}, it begins with {header[:4].hex(' ') or 'nothing'} "
            f"instead of {magic.hex(' ')}"
        )
    length = 4 + 4 * magic[3]
    if len(header) < length:
        raise DataError(f"{path}: truncated, its header has {len(header)} bytes instead of {length}")
    shape = struct.unpack(f">{magic[3]}I", header[4:])
    if min(shape) == 0:
        raise DataError(f"{path}: holds no {kind}, its header says {'×'.join(map(str, shape))}")
    return shape
