"""Whole sampling runs as CUDA graphs: one launch a batch in place of thousands."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion import philox
from ..diffusion.classes import UNLABELLED
from ..diffusion.device_philox import device_normals
from ..diffusion.network import Network
from ..diffusion.noise import GivenNoise, Noise
from ..errors import DeviceError, StmdError, first_line, out_of_memory
from ..models.spec import ModelSpec
from .eager import whole_run

__all__ = [
    "MAX_EVALUATIONS",
    "CapturedRun",
    "CudaGraphs",
    "Graphs",
    "Recorder",
    "bucket_of",
    "capture_errors",
    "normals_of",
]

GRAPHS = 8  # recorded runs that are kept
KEYS = 16  # keys whose numbers are in double precision at once
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
        """Run the work once, and return what repeats it."""
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


class _Graph(NamedTuple):
    """A recorded run: it reads ``keys``, ``indices`` and ``labels`` and writes samples to one place."""

    keys: Int[Tensor, " keys"]
    indices: Int[Tensor, " b"]
    labels: Int[Tensor, " b"] | None
    samples: Work


@final
class Graphs:
    """The recorded runs of a network, one for each (bucket of rows, times, M, guidance); the latest are kept."""

    def __init__(self, network: Network, spec: ModelSpec, device: torch.device, recorder: Recorder) -> None:
        self.recorder = recorder
        self.of = lru_cache(GRAPHS)(partial(_record, network, spec, device, recorder))


@final
@dataclass(frozen=True)
class CapturedRun:
    """Noise, N x M evaluations, bridges and decoder as one graph, in the next bucket of at most ``most`` rows.

    ``advance`` is called for each inference step once the graph is launched.
    """

    graphs: Graphs
    most: int = sys.maxsize
    advance: Callable[[], None] = lambda: None
    guidance: float = 1.0

    @staticmethod
    def fits(times: Sequence[float], mean_flow_steps: int) -> bool:
        """Whether a run is short enough for one graph."""
        return (len(times) - 1) * mean_flow_steps <= MAX_EVALUATIONS

    def __call__(self, noise: Noise, times: Sequence[float], mean_flow_steps: int, /) -> Float[Tensor, "b *decoded"]:
        """The samples of ``noise``; those that pad the bucket are dropped.

        Raises :class:`DeviceError` where the run cannot be captured.
        """
        rows = bucket_of(len(noise), self.most)
        with self.graphs.recorder.turn():
            graph = self.graphs.of(rows, tuple(times), mean_flow_steps, self.guidance)
            keys = torch.from_numpy(philox.fold(noise.key, np.arange(len(graph.keys))))
            graph.keys.copy_(keys, non_blocking=True)  # from pageable memory: CUDA has taken it when the call returns
            graph.indices.copy_(torch.nn.functional.pad(noise.indices, (0, rows - len(noise))))
            if graph.labels is not None:
                graph.labels.fill_(UNLABELLED)
                if noise.labels is not None:
                    graph.labels[: len(noise)] = noise.labels
            # A copy: the next run writes to the same place.
            samples = graph.samples()[: len(noise)].clone()
        for _ in times[1:]:
            self.advance()
        return samples


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
    guidance: float,
) -> _Graph:
    posterior = spec.build_posterior(network, mean_flow_steps, guidance)
    keys = torch.zeros(2 * (len(times) - 1), dtype=torch.int64, device=device)
    indices = torch.zeros(rows, dtype=torch.int64, device=device)
    labels = None if spec.classes is None else torch.full_like(indices, UNLABELLED)

    @torch.inference_mode()
    def work() -> Tensor:
        given = GivenNoise(normals_of(keys, indices, spec.shape), labels=labels)
        return whole_run(given, posterior, spec, times)

    with capture_errors(f"the run of {rows} samples", "load the model with eager=True"):
        return _Graph(keys, indices, labels, recorder.record(work))


@contextmanager
def capture_errors(what: str, way_out: str) -> Generator[None, None, None]:
    """DeviceError where ``what`` cannot be captured; our own errors and those of memory pass."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StmdError) or out_of_memory(error):
            raise
        line = first_line(error)
        raise DeviceError(f"{what} cannot be captured as a CUDA graph: {line}; {way_out}") from error


def normals_of(
    keys: Int[Tensor, " keys"], indices: Int[Tensor, " b"], shape: tuple[int, ...]
) -> Float[Tensor, "keys b *d"]:
    """What :meth:`Noise.normal` draws of each key (64 bits, as int64) for the sample indices, float32.

    Keys are numbers on the device, not in the program: a captured graph draws another run's noise with them.
    """
    count = math.prod(shape)
    parts = [device_normals(some, indices, count).float() for some in keys.split(KEYS)]
    return torch.cat(parts).reshape(len(keys), len(indices), *shape)
