"""``stmd doctor``: what works on this machine."""

from __future__ import annotations

from ..console import say

__all__ = ["doctor"]


def doctor() -> None:
    """Try every backend on this machine, and show the line that mends each one that does not work."""
    from .checks import checked, report  # noqa: PLC0415  after --help has been answered

    say(report(checked()))
