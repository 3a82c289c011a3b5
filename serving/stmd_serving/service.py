"""What the server does with a request once it is read: check it, have it drawn, and say how to draw it again."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar, cast, final

import numpy as np

from stmd_sdk.codecs.codec import LatentCodec
from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.diffusion.labelled import check_guidance
from stmd_sdk.diffusion.noise import INDICES, Noise
from stmd_sdk.diffusion.philox import fresh_seed
from stmd_sdk.errors import InvalidArgumentError, StmdError

from .asked import SampleRequest
from .batching import Batcher, BucketSettings
from .catalogue import Served
from .engine import Engine, Progress, Restoration, Restored
from .following import Followed, Following
from .limits import Limits, RefusedError
from .pictures import measurement_of
from .replies import DrawnSamples

__all__ = ["Asked", "Service", "fresh_name"]

T = TypeVar("T")


@final
@dataclass(frozen=True, eq=False)
class Asked:
    """A restoration as a client asks for it."""

    model: str | None
    image: bytes
    mask: bytes | None
    operator: str
    sigma: float | None
    draws: int
    levels: int
    seed: int | None
    name: str


@final
class Service:
    """The models ``served`` before an engine of which ``at_once`` calls run at a time."""

    def __init__(self, engine: Engine, served: Sequence[Served], limits: Limits, at_once: int) -> None:
        self.engine, self.limits = engine, limits
        self.served = {one.name: one for one in served}
        self.batcher, self.following = Batcher(engine.draw, at_once, limits), Following()
        self.places, self.restoring = asyncio.Semaphore(max(1, at_once // 2)), 0

    async def draw(self, asked: SampleRequest) -> DrawnSamples:
        """The samples that are asked for."""
        served = self.model(asked.model)
        self.limits.check("samples", asked.n, "n")
        settings = self._settings(served, asked)
        if asked.format == "png" and not (served.draws_images or served.shape == (2,)):
            raise RefusedError(422, f"{served.name} draws no pictures: ask for format npz or json")
        if asked.seed is None:
            if asked.first:
                raise RefusedError(422, "first goes with a seed: without one the server chooses both")
            seed, first = self.batcher.next_samples(settings, asked.n)
        else:
            seed, first = asked.seed, asked.first
        if first + asked.n > INDICES:
            raise RefusedError(422, f"first + n: the last possible sample is {INDICES - 1}")
        labels: list[int | None] = [None] * asked.n
        at_random = False
        if asked.labels is not None:
            classes = cast(Classes, served.model.classes)  # or the settings were refused
            labels = list(classes.numbers(asked.labels, seed, np.arange(first, first + asked.n)))
            at_random = classes.at_random(asked.labels)
        x = await self._in_time(self.batcher.rows(settings, seed, first, labels))
        return DrawnSamples(served, settings, seed, first, labels, at_random, x)

    def model(self, name: str | None) -> Served:
        """The model of a name; without one the only one that is served."""
        if name is None and len(self.served) == 1:
            return next(iter(self.served.values()))
        if name not in self.served:
            said = "say which model" if name is None else f"no model {name[:100]!r} here"
            raise RefusedError(404 if name else 422, f"{said}; there are {', '.join(self.served)}")
        return self.served[name]

    def _settings(self, served: Served, asked: SampleRequest) -> BucketSettings:
        """What the samples have in common; all of it possible, and within the limits."""
        spec, none = served.model, Noise.of(0, 1)
        if isinstance(asked.inference_steps, int):  # before a grid of so many is made
            self.limits.check("evaluations", asked.inference_steps, "inference_steps")
        m = spec.flow_steps(asked.mean_flow_steps)
        times = tuple(spec.grid(asked.inference_steps, asked.mean_flow_steps))
        self.limits.check("evaluations", (len(times) - 1) * m, "inference_steps x mean_flow_steps")
        if asked.labels is not None and spec.classes is None:
            raise InvalidArgumentError(f"labels: {served.name} has no classes")
        if asked.labels is None and spec.classes is not None and not spec.classes.null:
            raise InvalidArgumentError(f"labels: {served.name} was trained with labels alone: say which to draw")
        check_guidance(asked.guidance, spec.classes, none if asked.labels is None else none.labelled(none.indices))
        return BucketSettings(served.name, times, m, float(asked.guidance))

    async def restore(self, asked: Asked) -> tuple[Served, str, Restoration, Restored]:
        """The draws given a picture; who follows its name is told how far they are."""
        followed = await self.following.begin(asked.name)
        try:
            served, work = await self._measured(asked)
            found = await self._in_time(self._restored(work, followed))
        except BaseException as error:
            said = str(error) if isinstance(error, (RefusedError, StmdError)) else "it was given up"
            await asyncio.shield(followed.say("error", error=said))
            raise
        await followed.say("done", draws=work.draws, evaluations=found.evaluations, seed=work.seed)
        return served, asked.name, work, found

    async def _measured(self, asked: Asked) -> tuple[Served, Restoration]:
        served, spec = self.model(asked.model), self.model(asked.model).model
        if not served.draws_images or isinstance(spec.codec, LatentCodec) or not spec.objective.draws:
            raise RefusedError(422, f"{served.name} restores no pictures: it needs an STMD model of pixels")
        self.limits.check("draws", asked.draws, "draws")
        self.limits.check("evaluations", asked.levels * spec.flow_steps(None), "levels")
        y, mask, sigma = await asyncio.to_thread(
            measurement_of, asked.operator, served.shape, asked.image, asked.mask, asked.sigma, self.limits
        )
        seed = fresh_seed() if asked.seed is None else asked.seed
        return served, Restoration(served.name, asked.operator, mask, y, sigma, asked.draws, asked.levels, seed)

    async def _restored(self, work: Restoration, followed: Followed) -> Restored:
        self.limits.check_queue(self.restoring)
        self.restoring += 1
        try:
            async with self.places:
                said = cast(AsyncGenerator[Progress | Restored, None], self.engine.restore(work))
                async with aclosing(said):
                    async for one in said:
                        if isinstance(one, Restored):
                            return one
                        await followed.say("level", done=one.done, total=one.total)
        finally:
            self.restoring -= 1
        raise AssertionError("an engine says the draws at last")

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """408 for what takes longer than the limit."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await work
        except TimeoutError:
            raise RefusedError(408, f"not done within {self.limits.seconds:g} s; ask for less at once") from None


def fresh_name() -> str:
    """A name for a restoration whose client gave none."""
    return secrets.token_urlsafe(12)
