"""The service on Ray: one ingress that clients reach, and replicas of :class:`.worker.Worker` that draw.

The ingress holds the queue, so that what waits can share buckets; a replica is given one bucket at a time and
one more to go on with. A call whose replica dies is made again elsewhere, which gives the same samples.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, final

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from stmd_sdk.config import read_config
from stmd_sdk.errors import StmdError

from .app import build_app
from .batching import Bucket
from .catalogue import Served, opened
from .engine import Progress, Restoration, Restored
from .limits import Limits, RefusedError
from .plan import APPLICATIONS, WORKERS, Plan
from .worker import Worker

__all__ = ["RayEngine", "ingress", "workers"]

AGAIN = 0.2  # seconds between two tries of a call whose replica died
FRESH = 1.0  # seconds for which Ray's word on its replicas is taken
ASIDE = 3  # calls of a replica: the bucket at work, the next one, and a restoration
OF_WORKERS, _ = APPLICATIONS
LOST = RayActorError, RayServeException


@final
class RayEngine:
    """An :class:`.engine.Engine` of Ray's replicas; ``seconds`` is for how long a call is tried again."""

    def __init__(self, handle: DeploymentHandle[Any], seconds: float) -> None:
        self.handle, self.seconds = handle, seconds
        self.looked, self.running = float("-inf"), False

    async def draw(self, bucket: Bucket, /) -> NDArray[np.float32]:
        """The 16 decoded samples of a bucket, of whichever replica."""
        given_up = time.monotonic() + self.seconds
        while True:
            try:
                return await self.handle.draw.remote(bucket)
            except LOST as error:
                if time.monotonic() > given_up:
                    raise RefusedError(503, "no replica is there to answer") from error
            except RayTaskError as error:
                raise _own(error) from error
            await asyncio.sleep(AGAIN)

    async def restore(self, work: Restoration, /) -> AsyncIterator[Progress | Restored]:
        """The levels as they are done, again from the first where a replica dies, and the draws at last."""
        given_up = time.monotonic() + self.seconds
        while True:
            said: Any = self.handle.options(stream=True).restore.remote(work)
            try:
                async for one in said:
                    yield one
                return
            except LOST as error:
                if time.monotonic() > given_up:
                    raise RefusedError(503, "no replica is there to answer") from error
            except RayTaskError as error:
                raise _own(error) from error
            finally:
                said.cancel()
            await asyncio.sleep(AGAIN)

    async def ready(self) -> bool:
        """Whether Ray knows of a replica that runs."""
        if time.monotonic() > self.looked + FRESH:
            self.running = await asyncio.to_thread(_a_replica_runs)
            self.looked = time.monotonic()
        return self.running


def _own(error: RayTaskError) -> Exception:
    """The project's own error that a replica raised, or Ray's, which has its traceback."""
    return error.cause if isinstance(error.cause, StmdError) else error


def _a_replica_runs() -> bool:
    with suppress(Exception):  # a controller that is being restarted can raise anything
        states = serve.status().applications[OF_WORKERS].deployments[WORKERS].replica_states
        return any(state == "RUNNING" and count > 0 for state, count in states.items())
    return False


@final
class Workers:
    """A replica: a worker, and how Ray calls it."""

    def __init__(self, models: Sequence[Served], threads: int) -> None:
        self.worker = Worker(models, threads)

    async def draw(self, bucket: Bucket) -> NDArray[np.float32]:
        """The 16 decoded samples of a bucket."""
        return await self.worker.draw(bucket)

    async def restore(self, work: Restoration) -> AsyncIterator[Progress | Restored]:
        """The levels as they are done, and the draws at last."""
        async for one in self.worker.restore(work):
            yield one


def workers(args: dict[str, Any]) -> serve.Application:
    """The replicas of a :class:`.plan.Plan`'s values that draw."""
    plan = read_config(Plan, args)
    deployed = serve.deployment(
        name=WORKERS,
        num_replicas=plan.replicas,
        max_ongoing_requests=ASIDE,
        graceful_shutdown_timeout_s=plan.limits.seconds,
        ray_actor_options={"num_cpus": plan.threads, "num_gpus": plan.gpus},
    )(Workers)
    return deployed.bind(opened(plan.models), plan.threads)


def ingress(args: dict[str, Any]) -> serve.Application:
    """What clients reach; it finds the workers by name."""
    plan = read_config(Plan, args)
    models, limits = opened(plan.models), plan.limits
    at_once, token = plan.at_once, plan.token  # as they are here, not where the ingress runs
    deployed = serve.deployment(
        name="Ingress",
        max_ongoing_requests=4 * limits.waiting,
        graceful_shutdown_timeout_s=limits.seconds,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress(lambda: _app(models, limits, at_once, token))(_Ingress))
    return deployed.bind()


def _app(models: Sequence[Served], limits: Limits, at_once: int, token: str | None) -> FastAPI:
    handle = serve.get_deployment_handle(WORKERS, OF_WORKERS)
    return build_app(RayEngine(handle, limits.seconds), models, limits, at_once, token)


class _Ingress:
    """The application and nothing else."""
