"""The schedules that a spec or a recipe may name, by their ``kind``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import read_config
from .cosine import CosineSchedule
from .vp import VPSchedule

__all__ = ["ScheduleConfig", "read_schedule"]

ScheduleConfig = VPSchedule | CosineSchedule


@dataclass(frozen=True)
class _Scheduled:
    schedule: ScheduleConfig


def read_schedule(values: Mapping[str, Any] | None) -> ScheduleConfig:
    """The schedule of a table with its ``kind``, the paper's where there is none.

    Raises :class:`InvalidArgumentError` for tables that are no schedule's.
    """
    return read_config(_Scheduled, {"schedule": {"kind": "vp"} if values is None else values}).schedule
