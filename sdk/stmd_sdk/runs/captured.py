"""Whole sampling runs as CUDA graphs: one launch a batch in place of thousands. Not measured on a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from typing import NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion import philox
from ..diffusion.noise import Noise
from ..diffusion.posterior import Network
from ..errors import DeviceError, StmdError
from ..models.spec import ModelSpec
from .chunks import out_of_memory
from .whole import GivenNoise, normals, whole_run

__all__ = ["MAX_EVALUATIONS", "CapturedNetwork", "CudaGraphs", "Recorder", "bucket_of", "capturing"]

GRAPHS = 8  # recorded runs that are kept
MAX_EVALUATIONS = 128  # a graph has some hundred nodes an evaluation, and memory for each

Work = Callable[[], Tensor]
"""A function that reads and writes the same memory at each call."""


@runtime_checkable  # for the checks of annotations in the tests
class Recorder(Protocol):
    """What turns a work into one that repeats the same launches."""

    def turn(self) -> AbstractContextManager[None]:
        """The right to use the memory of recorded works; what is enqueued in it comes after all earlier turns."""
        ...

    def record(self, work: Work, /) -> Work:
        """The same work, recorded."""
        ...


@final
class CudaGraphs:
    """CUDA graphs that share one memory pool; they replay on the caller's stream, one after another."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lock = threading.Lock()
        with torch.cuda.device(device):
            self.stream, self.done = torch.cuda.Stream(), torch.cuda.Event()
            self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def turn(self) -> Generator[None, None, None]:
        """Wait, on the device, for the turn before, which may have been another stream's."""
        with self.lock, torch.cuda.device(self.device):
            self.done.wait()
            yield
            self.done.record()

    def record(self, work: Work, /) -> Work:
        """Run the work once, which loads kernels and picks algorithms, then capture it; both on a stream of our own."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on calling CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class _Run(NamedTuple):
    """A recorded run: it reads ``keys`` and ``indices`` and writes samples to one place."""

    keys: Int[Tensor, " keys"]
    indices: Int[Tensor, " b"]
    samples: Work


@final
class CapturedNetwork:
    """A network whose whole runs are recorded: noise, N x M evaluations, bridges and decoder in one graph.

    There is one graph for each (bucket of rows, times, M). Called as a network, as guides and trajectories do, it
    evaluates as it always did.
    """

    def __init__(self, network: Network, spec: ModelSpec, device: torch.device, recorder: Recorder) -> None:
        self.network = network
        self.recorder = recorder
        self._recorded = lru_cache(GRAPHS)(partial(_record, network, spec, device, recorder))

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate the network, step by step."""
        return self.network(x, times)

    def sample(
        self, noise: Noise, times: Sequence[float], mean_flow_steps: int, most: int
    ) -> Float[Tensor, "b *decoded"]:
        """The samples of ``noise``, drawn in the next bucket of at most ``most`` rows; those that pad it are dropped.

        Raises :class:`DeviceError` where the run cannot be captured.
        """
        rows = bucket_of(len(noise), most)
        with self.recorder.turn():
            run = self._recorded(rows, tuple(times), mean_flow_steps)
            keys = torch.from_numpy(philox.fold(noise.key, np.arange(len(run.keys))))
            run.keys.copy_(keys, non_blocking=True)  # from pageable memory: CUDA has taken it when the call returns
            run.indices.copy_(torch.nn.functional.pad(noise.indices, (0, rows - len(noise))))
            # A copy: the next run writes to the same place.
            return run.samples()[: len(noise)].clone()


def capturing(network: Network, evaluations: int) -> CapturedNetwork | None:
    """The network, if it captures runs of so many evaluations."""
    return network if isinstance(network, CapturedNetwork) and evaluations <= MAX_EVALUATIONS else None


def bucket_of(rows: int, most: int) -> int:
    """The next power of two, or ``most`` if that is less: ``rows`` run in a graph of so many."""
    return min(1 << (rows - 1).bit_length(), most)


def _record(
    network: Network,
    spec: ModelSpec,
    device: torch.device,
    recorder: Recorder,
    rows: int,
    times: tuple[float, ...],
    mean_flow_steps: int,
) -> _Run:
    posterior = spec.build_posterior(network, mean_flow_steps)
    keys = torch.zeros(2 * (len(times) - 1), dtype=torch.int64, device=device)
    indices = torch.zeros(rows, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def work() -> Tensor:
        return whole_run(GivenNoise.holding(normals(keys, indices, spec.shape)), posterior, spec, times)

    try:
        return _Run(keys, indices, recorder.record(work))
    except Exception as error:
        if isinstance(error, StmdError) or out_of_memory(error):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceError(
            f"the run of {rows} samples cannot be captured as a CUDA graph: {line}; load the model with eager=True"
        ) from error
