"""What draws: the models, opened, in one process; buckets one after the other, and one restoration beside them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from stmd_sdk.cli.restoring import Damage, Restorer, Restoring
from stmd_sdk.diffusion.classes import UNLABELLED
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import CheckpointError, StmdError
from stmd_sdk.progress import followed
from stmd_sdk.runs.inputs import BUCKET
from stmd_sdk.sampler import Sampler

from .batching import Bucket
from .catalogue import Served
from .engine import Progress, Restoration, Restored
from .pictures import operator_of

__all__ = ["Worker"]


@final
class Worker:
    """An :class:`.engine.Engine` of this process; ``threads`` are those of PyTorch, OpenVINO or ONNX Runtime.

    Raises :class:`CheckpointError` where a model's file is not the one that the server was started with.
    """

    def __init__(self, models: Sequence[Served], threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.samplers: dict[str, Sampler] = {}
        for served in models:
            if served.digest_now() != served.digest:
                raise CheckpointError(f"{served.source}: is not the file here that the server was started with")
            self.samplers[served.name] = Sampler.from_pretrained(served.source)
        self.buckets, self.restorations = (ThreadPoolExecutor(1, initializer=self._enter) for _ in range(2))

    def _enter(self) -> None:
        torch.set_num_threads(self.threads)  # OpenMP's number is a thread's own

    async def draw(self, bucket: Bucket, /) -> NDArray[np.float32]:
        """The 16 decoded samples of a bucket."""
        return await asyncio.get_running_loop().run_in_executor(self.buckets, self._draw, bucket)

    def _draw(self, bucket: Bucket) -> NDArray[np.float32]:
        sampler, settings = self.samplers[bucket.settings.model], bucket.settings
        noise = Noise.of(bucket.seed, BUCKET, first=bucket.number * BUCKET)
        if bucket.labels is not None:
            noise = noise.labelled(torch.tensor([UNLABELLED if one is None else one for one in bucket.labels]))
        drawn = sampler.sample(
            BUCKET,
            inference_steps=settings.times,
            mean_flow_steps=settings.mean_flow_steps,
            guidance=settings.guidance,
            seed=noise,
            batch_size=BUCKET,
        )
        return drawn.cpu().numpy()

    async def restore(self, work: Restoration, /) -> AsyncIterator[Progress | Restored]:
        """The levels as they are done, and the draws at last; closing it ends the work at its next level."""
        loop, said = asyncio.get_running_loop(), asyncio.Queue[Progress | None]()
        given_up = threading.Event()

        def told(done: int, total: int) -> None:
            if given_up.is_set():
                raise _GivenUpError
            loop.call_soon_threadsafe(said.put_nowait, Progress(done, total))

        def run() -> Restored:
            try:
                with followed(told):
                    return self._restore(work)
            finally:
                loop.call_soon_threadsafe(said.put_nowait, None)

        found = loop.run_in_executor(self.restorations, run)
        try:
            while (progress := await said.get()) is not None:
                yield progress
            yield await found
        finally:
            given_up.set()
            found.cancel()
            found.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def _restore(self, work: Restoration) -> Restored:
        sampler = self.samplers[work.model]
        how = Restoring("gibbs", work.draws, work.levels, False, None)
        restorer = Restorer(sampler, Damage(work.operator, work.sigma, False), how, work.seed)
        operator, _ = operator_of(work.operator, sampler.spec.codec.decoded_shape(sampler.spec.shape), work.mask)
        x, words = restorer.draw(operator, torch.from_numpy(work.y), work.sigma)
        return Restored(x.cpu().numpy(), words)

    async def ready(self) -> bool:
        """The models are open."""
        return True


class _GivenUpError(StmdError):
    """Nobody waits for the restoration any more."""
