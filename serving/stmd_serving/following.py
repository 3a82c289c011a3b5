"""Restorations that can be followed: what each has said so far, for whoever asks, also a while afterwards."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, final

from .limits import RefusedError

__all__ = ["Followed", "Following"]

KEPT = 1024  # restorations that are remembered
LAST = "done", "error"
PATIENCE = 5.0  # seconds for which one may be asked for before it has begun


@final
@dataclass(eq=False)
class Followed:
    """What a restoration has ``said``, as (event, data); of one that has ended the last of it alone."""

    said: list[tuple[str, dict[str, Any]]] = field(default_factory=lambda: [("waiting", {})])
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def ended(self) -> bool:
        """Whether nothing will be said any more."""
        return self.said[-1][0] in LAST

    async def say(self, event: str, **data: Any) -> None:
        """Tell all who follow."""
        async with self.changed:
            self.said.append((event, data))
            if self.ended:
                self.said = self.said[-1:]  # who follows already has the list that was
            self.changed.notify_all()

    async def lines(self) -> AsyncIterator[str]:
        """All of it as server-sent events, to the end."""
        said, told = self.said, 0
        while told == 0 or said[told - 1][0] not in LAST:
            async with self.changed:
                await self.changed.wait_for(lambda: len(said) > told)  # noqa: B023  waits here
            event, data = said[told]
            told += 1
            yield f"event: {event}\ndata: {json.dumps(data)}\n\n"


@final
class Following:
    """Restorations by the name that their clients gave them."""

    def __init__(self) -> None:
        self.known: OrderedDict[str, Followed] = OrderedDict()
        self.begun = asyncio.Condition()

    async def begin(self, name: str) -> Followed:
        """A new one; 409 where one of that name is not done."""
        found = self.known.get(name)
        if found is not None and not found.ended:
            raise RefusedError(409, f"restoration {name} is at work: choose another id")
        async with self.begun:
            self.known[name] = Followed()
            self.known.move_to_end(name)
            if len(self.known) > KEPT:
                self.known.popitem(last=False)
            self.begun.notify_all()
        return self.known[name]

    async def find(self, name: str) -> Followed:
        """That of a name, which may be about to begin; 404 where it does not."""
        try:
            async with asyncio.timeout(PATIENCE), self.begun:
                await self.begun.wait_for(lambda: name in self.known)
        except TimeoutError:
            raise RefusedError(404, f"no restoration {name!r} is at work or was lately") from None
        return self.known[name]
