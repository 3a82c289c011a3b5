"""Requests that share evaluations, without a bit of any sample changed.

Sample k is row k mod 16 of a bucket of 16 rows (``Sampler.sample(..., batch_invariant=True)``), whoever else is in it.
So what can share a bucket is other samples of its seed, of equal settings: a request joins the bucket that it needs
while that waits for a free replica, whatever labels its rows have. Requests without a seed are given the next samples
of the server's own, side by side, so that small ones fill buckets together. Batches form while replicas are busy:
where one is free, nothing waits.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

from stmd_sdk.diffusion.noise import INDICES
from stmd_sdk.diffusion.philox import fresh_seed
from stmd_sdk.runs.inputs import BUCKET

from .limits import Limits

__all__ = ["Batcher", "Bucket", "BucketSettings"]

SEEDS = 256  # settings whose next own samples are remembered


@final
@dataclass(frozen=True)
class BucketSettings:
    """What a bucket's rows have in common beside their seed; ``times`` is the grid from 1 to 0."""

    model: str
    times: tuple[float, ...]
    mean_flow_steps: int
    guidance: float


@final
@dataclass(frozen=True)
class Bucket:
    """Samples 16 ``number`` to 16 ``number`` + 15 of ``seed``; ``labels`` of its rows, or None where none has one."""

    settings: BucketSettings
    seed: int
    number: int
    labels: tuple[int | None, ...] | None


@final
@dataclass(eq=False)
class _Job:
    """A bucket that waits or is drawn: the labels of the rows that were asked for, and how many requests want it."""

    settings: BucketSettings
    seed: int
    number: int
    asked: dict[int, int | None] = field(default_factory=dict[int, int | None])
    wanted: int = 0
    done: asyncio.Future[NDArray[np.float32]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def takes(self, rows: dict[int, int | None]) -> bool:
        """Whether these rows may join: none was asked for with another label."""
        return all(self.asked.get(row, label) == label for row, label in rows.items())

    def bucket(self) -> Bucket:
        labels = tuple(self.asked.get(row) for row in range(BUCKET))
        return Bucket(self.settings, self.seed, self.number, None if set(labels) == {None} else labels)


@final
class Batcher:
    """The queue of buckets before ``draw``, of which ``at_once`` run at a time; the oldest comes first."""

    def __init__(self, draw: Callable[[Bucket], Awaitable[NDArray[np.float32]]], at_once: int, limits: Limits) -> None:
        self.draw, self.at_once, self.limits = draw, at_once, limits
        self.waiting: OrderedDict[int, _Job] = OrderedDict()
        self.open: dict[tuple[BucketSettings, int, int], _Job] = {}
        self.running: set[asyncio.Task[None]] = set()
        self.drawn, self.filled = 0, 0
        self.own: OrderedDict[BucketSettings, tuple[int, int]] = OrderedDict()

    def next_samples(self, settings: BucketSettings, n: int) -> tuple[int, int]:
        """A seed of the server's own and the first of the next ``n`` samples of it, which nobody else is given."""
        seed, first = self.own.pop(settings, (0, INDICES))
        if first + n > INDICES:
            seed, first = fresh_seed(), 0
        self.own[settings] = seed, first + n
        if len(self.own) > SEEDS:
            self.own.popitem(last=False)
        return seed, first

    async def rows(
        self, settings: BucketSettings, seed: int, first: int, labels: list[int | None]
    ) -> NDArray[np.float32]:
        """Samples ``first`` on of ``seed``, one for each of ``labels``: [n, *decoded].

        Raises :class:`.limits.RefusedError` where the queue is full. Who stops waiting leaves the queue.
        """
        parts: dict[int, dict[int, int | None]] = {}
        for k, label in enumerate(labels, start=first):
            parts.setdefault(k // BUCKET, {})[k % BUCKET] = label
        jobs = self._joined(settings, seed, parts)
        try:
            self._start()
            drawn = [await asyncio.shield(job.done) for job in jobs]
        finally:
            for job in jobs:
                self._leave(job)
        return np.concatenate([x[min(rows) : max(rows) + 1] for x, rows in zip(drawn, parts.values(), strict=True)])

    def _joined(self, settings: BucketSettings, seed: int, parts: dict[int, dict[int, int | None]]) -> list[_Job]:
        """The jobs of the buckets, waiting ones where they take the rows; where the queue is full, none at all."""
        found = {number: self.open.get((settings, seed, number)) for number in parts}
        joined = {number: job for number, job in found.items() if job is not None and job.takes(parts[number])}
        fresh = len(parts) - len(joined)
        if fresh > max(0, self.at_once - len(self.running) - len(self.waiting)):
            self.limits.check_queue(len(self.waiting) + fresh)
        jobs: list[_Job] = []
        for number, rows in parts.items():
            job = joined.get(number)
            if job is None:
                job = _Job(settings, seed, number)
                self.waiting[id(job)] = self.open[settings, seed, number] = job
            job.asked |= rows
            job.wanted += 1
            jobs.append(job)
        return jobs

    def _leave(self, job: _Job) -> None:
        job.wanted -= 1
        if job.wanted == 0:
            self._closed(job)
            if not job.done.cancel() and not job.done.cancelled():
                job.done.exception()  # asyncio warns of one that nobody looks at

    def _closed(self, job: _Job) -> None:
        """Nobody can join any more; the server's own next samples will be of a bucket that others can."""
        self.waiting.pop(id(job), None)
        key = job.settings, job.seed, job.number
        if self.open.get(key) is job:
            del self.open[key]
        seed, following = self.own.get(job.settings, (-1, 0))
        if seed == job.seed and following // BUCKET == job.number:
            self.own[job.settings] = seed, (job.number + 1) * BUCKET

    def _start(self) -> None:
        while self.waiting and len(self.running) < self.at_once:
            job = next(iter(self.waiting.values()))
            self._closed(job)
            task = asyncio.create_task(self._run(job))
            self.running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        self._start()

    async def _run(self, job: _Job) -> None:
        self.drawn, self.filled = self.drawn + 1, self.filled + len(job.asked)
        try:
            x = await self.draw(job.bucket())
        except Exception as error:
            if not job.done.done():
                job.done.set_exception(error)
        else:
            if not job.done.done():
                job.done.set_result(x)
