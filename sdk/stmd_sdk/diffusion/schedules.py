"""The schedules that a spec or a recipe may name, by their ``kind``."""

from __future__ import annotations

from .cosine import CosineSchedule
from .vp import VPSchedule

__all__ = ["ScheduleConfig"]

ScheduleConfig = VPSchedule | CosineSchedule
