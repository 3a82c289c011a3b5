"""Data sets: loaded, checked, and read row by row.

May import models and all below them. To add a format: a reader in a module of its own, and a line in ``load.py``.
"""

from __future__ import annotations

from .arrays import ArrayData, ShardedData
from .load import load_data

__all__ = ["ArrayData", "ShardedData", "load_data"]
