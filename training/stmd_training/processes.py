"""Data parallelism: processes that each take a share of every batch and add up their gradients.

The derivative along the path runs below autograd and outside any wrapper's forward pass, so the gradients are summed
by hand after the backward pass. ``torchrun`` and ``accelerate launch`` start the processes and say who is who.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor

from stmd_sdk.errors import DeviceError, InvalidArgumentError, TrainingError, first_line

__all__ = ["ALONE", "Processes", "joined_processes"]

# Longer than the main process takes to draw and save while the others wait for it.
PATIENCE = timedelta(minutes=20)
LOST = (
    "another process of the run is gone ({error}); the last checkpoint is intact. Give the same command again, "
    "on as many processes as there are: it goes on from there"
)


@final
@dataclass(frozen=True)
class Processes:
    """Who this process is among those of the run. Process 0 is the main one: it alone averages, logs, saves, draws."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def shares(self, microbatches: int) -> list[slice]:
        """This process's rows of a batch, micro-batch by micro-batch.

        Of n shares in all each takes every n-th row, so that it has its part of the rows of either kind.
        """
        n = self.count * microbatches
        return [slice(share, None, n) for share in range(self.rank, n, self.count)]

    def check_batch(self, batch_size: int, moving_rows: int, microbatches: int) -> None:
        """Raise unless a batch, and its rows with r < τ, can be shared out evenly."""
        n = self.count * microbatches
        if batch_size % n or moving_rows % n:
            raise InvalidArgumentError(
                f"batch_size: {batch_size}, of which {moving_rows} rows have r < tau, cannot be shared out evenly "
                f"among {self.count} processes with {microbatches} micro-batches each"
            )

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes; TrainingError where one of them is gone."""
        if self.count == 1:
            return
        tensors = list(tensors)
        try:
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                assert work is not None  # as it is for those who are in the group
                work.wait()
        except RuntimeError as error:
            raise TrainingError(LOST.format(error=str(error).splitlines()[0])) from error
        for tensor in tensors:
            tensor.div_(self.count)

    def check_same(self, what: str, value: int, device: torch.device) -> None:
        """Raise unless all processes hold the same number."""
        mean = torch.tensor(float(value), dtype=torch.float64, device=device)
        self.average([mean])
        if float(mean) != value:
            raise TrainingError(
                f"process {self.rank} has {what} {value}, and others have another: all must see the same folder"
            )

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


@contextmanager
def joined_processes(device: str | None) -> Generator[tuple[Processes, str | None], None, None]:
    """Join the processes that ``torchrun`` or ``accelerate launch`` started: who this is, and its own device.

    NCCL on GPUs, one for each process; Gloo on CPUs. Without a launcher there is one process, on the device asked for.
    """
    count, rank = _number("WORLD_SIZE"), _number("RANK")
    if count in (None, 1) or rank is None:  # a cluster may say the one without having started the other
        yield ALONE, device
        return
    local = _number("LOCAL_RANK")
    local = rank if local is None else local
    if rank >= count:
        raise InvalidArgumentError(f"RANK in the environment must lie in [0, WORLD_SIZE = {count}), got {rank}")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise InvalidArgumentError(
            f"the environment says this is process {rank} of {count} and lacks {' and '.join(missing)}: start the "
            "processes with torchrun or accelerate launch, or unset WORLD_SIZE and RANK to train in one"
        )
    on_gpus = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if on_gpus and local >= torch.cuda.device_count():
        raise DeviceError(
            f"process {rank} wants GPU {local} of its machine, which has {torch.cuda.device_count()}: start one "
            "process for each GPU, or train with --device cpu"
        )
    own = f"cuda:{local}" if on_gpus else "cpu"
    if on_gpus:
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if on_gpus else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError, OSError) as error:  # no such host, a port that is taken, peers that never came
        line = first_line(error)
        raise DeviceError(f"the {count} processes of the run cannot find each other ({line})") from error
    try:
        yield Processes(rank, count), own
        dist.barrier()  # Gloo's threads abort a process whose peer leaves first
    finally:
        dist.destroy_process_group()


def _number(name: str) -> int | None:
    """A count or rank of the environment; None where it is absent or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10) or (name == "WORLD_SIZE" and int(text) == 0):
        raise InvalidArgumentError(f"{name} in the environment must be a number of processes, got {text[:80]!r}")
    return int(text)
