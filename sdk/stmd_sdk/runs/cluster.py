"""Pieces of work, one after the other here or spread over a Ray cluster: the same results, in whichever order.

A piece is a pure function of what it is given, so that Ray may do it again where a worker is lost. What comes back is
written by one process, this one: that it is written once, and what is left after a stop, is the business of
:mod:`.stream`'s records and files, which know nothing of Ray.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, final, runtime_checkable

from ..errors import DeviceError, StmdError, first_line, requires_extra

__all__ = ["Every", "one_by_one", "workers_at"]

Result = TypeVar("Result")

AHEAD = 2  # pieces for each core of the cluster that are handed out
PATIENCE = 5.0  # seconds in which a head's port must answer


@runtime_checkable  # for the checks of annotations in the tests
class Every(Protocol):
    """What has pieces of work done: ``work(*piece)`` of each, as (its number, the result), in any order."""

    def __call__(
        self, work: Callable[..., Result], pieces: Iterable[tuple[Any, ...]], /
    ) -> Iterator[tuple[int, Result]]:
        """The results, as they come."""
        ...


def one_by_one(work: Callable[..., Result], pieces: Iterable[tuple[Any, ...]], /) -> Iterator[tuple[int, Result]]:
    """In this process, in their order."""
    for number, piece in enumerate(pieces):
        yield number, work(*piece)


@final
class _Cluster:
    """An :class:`Every` of the workers of a Ray cluster, each piece on a core of its own, or on a GPU."""

    def __init__(self, ray: Any, gpu: bool) -> None:
        self.ray, self.gpu = ray, gpu

    def __call__(
        self, work: Callable[..., Result], pieces: Iterable[tuple[Any, ...]], /
    ) -> Iterator[tuple[int, Result]]:
        """The results, as they come; pieces are made as workers ask for them, so that any number takes no memory.

        What a piece raises is raised here; a worker that is lost is another's work.
        """
        task = self.ray.remote(num_cpus=1, num_gpus=int(self.gpu), max_retries=-1)(_done)
        shared, under_way, left = self.ray.put(work), dict[Any, int](), enumerate(pieces)
        try:
            while True:
                while len(under_way) < self._most() and (following := next(left, None)) is not None:
                    under_way[task.remote(shared, following[1])] = following[0]
                if not under_way:
                    return
                (ready, *_), _ = self.ray.wait(list(under_way), num_returns=1)
                yield under_way.pop(ready), self._got(ready)
        finally:
            for reference in under_way:
                self.ray.cancel(reference, force=True)

    def _most(self) -> int:
        """Pieces under way: machines may have joined."""
        return AHEAD * max(1, int(self.ray.cluster_resources().get("GPU" if self.gpu else "CPU", 1)))

    def _got(self, reference: Any) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, StmdError) else error) from None


def _done(work: Callable[..., Any], piece: tuple[Any, ...]) -> Any:
    return work(*piece)


@contextmanager
def workers_at(address: str | None, device: str | None) -> Generator[Every, None, None]:
    """Over the cluster of the head at ``address`` (HOST:PORT, or auto for the one that runs here), a GPU a piece where
    ``device`` is CUDA; local is a cluster of our own, on this machine, and None is no cluster.

    A cluster that this process is connected to already is taken as it is. :class:`DeviceError` where there is none.
    """
    if address is None:
        yield one_by_one
        return
    gpu = device is not None and device.startswith("cuda")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with requires_extra("serve"):
        import ray  # noqa: PLC0415  an extra, and seconds
    if ray.is_initialized():
        yield _Cluster(ray, gpu)
        return
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), PATIENCE).close()
        except OSError as error:
            raise DeviceError(f"--ray {address}: no Ray head answers there ({error.strerror or error})") from error
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray has several for it
        raise DeviceError(
            f"--ray {address}: no Ray cluster can be reached there ({first_line(error)}); one that was started with a "
            "token wants RAY_AUTH_MODE=token here too"
        ) from error
    try:
        yield _Cluster(ray, gpu)
    finally:
        ray.shutdown()
