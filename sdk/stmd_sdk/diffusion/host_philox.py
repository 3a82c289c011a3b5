"""Philox's normals by NumPy: what keys on the CPU draw, of several keys in one pass. Does not import PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from . import philox

__all__ = ["ONCE", "host_normals"]

ONCE = 2**16
"""Numbers of one pass: its words and doubles stay in a core's cache, which halves the time of large batches."""


def host_normals(keys: Sequence[int], indices: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """``count`` standard normals of each key and sample index: [keys, indices, count].

    Most of a small pass is NumPy's calls, so that eight keys of one image take little more than one.
    """
    rows = min(len(indices), max(1, ONCE // count))
    each = max(1, ONCE // (rows * count))
    found = np.empty((len(keys), len(indices), count), np.float32)
    for k, i in product(range(0, len(keys), each), range(0, len(indices), rows)):
        found[k : k + each, i : i + rows] = _pass(keys[k : k + each], indices[i : i + rows], count)
    return found


def _pass(keys: Sequence[int], indices: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    folded = np.array(keys, np.uint64).astype(np.int64)[:, None, None]
    bits = philox.words(folded, indices[:, None], np.arange(-(-count // 4))[None])
    rows = np.stack(philox.normals(bits, np), axis=-1).reshape(len(keys), len(indices), -1)
    return rows[..., :count]
