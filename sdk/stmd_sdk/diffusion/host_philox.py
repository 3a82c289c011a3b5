"""Philox's normals by NumPy: what keys on the CPU draw, of several keys in one pass. Does not import PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import philox

__all__ = ["ONCE", "host_normals"]

ONCE = 2**19
"""Numbers of one pass: a few megabytes of its words and doubles."""


def host_normals(keys: Sequence[int], indices: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """``count`` standard normals of each key and sample index: [keys, indices, count].

    Most of a small pass is NumPy's calls, so that eight keys of one image take little more than one.
    """
    each = max(1, ONCE // (len(indices) * count))
    return np.concatenate([_pass(keys[k : k + each], indices, count) for k in range(0, len(keys), each)])


def _pass(keys: Sequence[int], indices: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    folded = np.array(keys, np.uint64).astype(np.int64)[:, None, None]
    bits = philox.words(folded, indices[:, None], np.arange(-(-count // 4))[None])
    rows = np.stack(philox.normals(bits, np), axis=-1).reshape(len(keys), len(indices), -1)
    return rows[..., :count].astype(np.float32)
