"""What a request may ask for and how many may wait: every bound can be set, every refusal says it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import final

from stmd_sdk.checks import check_integer
from stmd_sdk.errors import InvalidArgumentError

__all__ = ["Limits", "RefusedError"]


class RefusedError(Exception):
    """A request that is refused with the HTTP status ``status``; the message says the bound or what is wrong."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@final
@dataclass(frozen=True)
class Limits:
    """Bounds of a server: of a request, and of the queue.

    ``samples`` of a request; ``evaluations`` of the network a sample or a draw; ``draws`` of a restoration; ``size``,
    bytes of a request's body; ``pixels`` of a picture; ``waiting``, buckets of 16 samples, and restorations, that may
    wait; ``seconds`` that a request may take, its upload included.
    """

    samples: int = 4096
    evaluations: int = 1000
    draws: int = 256
    size: int = 2**23
    pixels: int = 2**22
    waiting: int = 1024
    seconds: float = 120.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "seconds":
                check_integer(f"limit {field.name}", getattr(self, field.name), 1)
        if not 0 < self.seconds < math.inf:
            raise InvalidArgumentError(f"limit seconds must be positive and finite, got {self.seconds}")

    def check(self, bound: str, value: int, what: str) -> None:
        """Refuse with 422 what is more than the bound of that name."""
        if value > getattr(self, bound):
            raise RefusedError(422, f"{what}: at most {getattr(self, bound)} here, got {value}")

    def check_queue(self, waiting: int) -> None:
        """Refuse with 429 where more than ``waiting`` would wait."""
        if waiting > self.waiting:
            raise RefusedError(429, f"the queue is full: at most {self.waiting} wait here; try again later")
