"""Models opened for drawing by the shell: a network and its sampling loop, or a whole sampler in one file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from ..errors import CheckpointError, InvalidArgumentError
from ..files import check_regular, reading, sha256_of_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..sampler import Sampler

__all__ = ["Drawer", "describe", "named", "open_drawer", "open_sampler", "parse_steps"]


@final
@dataclass(frozen=True)
class Drawer:
    """A model opened for drawing: ``draw(seed, first, n)``, and what the command says of it."""

    draw: Callable[[int, int, int], NDArray[np.float32]]
    name: str
    shape: tuple[int, ...]
    facts: str
    device: str
    digest: str


def open_drawer(
    model: str, steps: str | None, mean_flow_steps: int, device: str | None, batch_size: int | None, *, progress: bool
) -> Drawer:
    """Open a model, bundled or a file; a whole sampler holds its own steps, and needs no PyTorch."""
    path = Path(model)
    if path.suffix == ".onnx" and _is_whole(path):
        if steps is not None or mean_flow_steps != 1 or device is not None:
            raise InvalidArgumentError(f"{model} holds its steps and runs on the CPU: leave out what says otherwise")
        return _whole_drawer(path, batch_size)
    from ..models.checkpoint import resolve_model  # noqa: PLC0415

    grid, file = parse_steps(steps), resolve_model(model)
    before = _digest(file)
    sampler = open_sampler(model, device)

    def draw(seed: int, first: int, n: int) -> NDArray[np.float32]:
        return (
            sampler.sample(
                n,
                inference_steps=grid,
                mean_flow_steps=mean_flow_steps,
                seed=seed,
                first=first,
                batch_size=batch_size,
                progress=progress,
            )
            .cpu()
            .numpy()
        )

    spec, facts = sampler.spec, describe(sampler, grid, mean_flow_steps)
    return Drawer(draw, spec.name, spec.shape, facts, str(sampler.device), _unchanged(file, before))


def _whole_drawer(path: Path, batch_size: int | None) -> Drawer:
    from ..runs.exported import ExportedRun  # noqa: PLC0415

    before = _digest(path)
    sampler = ExportedRun.open(path)

    def draw(seed: int, first: int, n: int) -> NDArray[np.float32]:
        return sampler.sample(n, seed=seed, first=first, batch_size=batch_size)

    facts = f"{sampler.inference_steps} inference steps"
    return Drawer(draw, sampler.name, sampler.shape, facts, "the CPU", _unchanged(path, before))


def _is_whole(path: Path) -> bool:
    from ..runs.exported import is_whole_sampler  # noqa: PLC0415

    return is_whole_sampler(path)


def _digest(path: Path) -> str:
    check_regular(path, CheckpointError)
    with reading(path, CheckpointError):
        return sha256_of_file(path)


def _unchanged(path: Path, before: str) -> str:
    """The digest of a model that has been opened: which file the samples are of is what a run's record says."""
    if _digest(path) != before:
        raise CheckpointError(f"{path}: was replaced while it was loaded; give the same command again")
    return before


def open_sampler(model: str, device: str | None) -> Sampler:
    """Open a model with PyTorch. Each process of torchrun takes the GPU of its LOCAL_RANK, where there are GPUs."""
    import torch  # noqa: PLC0415

    from ..sampler import Sampler  # noqa: PLC0415

    if device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return Sampler.from_pretrained(model, device=device)


def parse_steps(text: str | None) -> int | list[float] | None:
    """``4`` or ``1,0.6,0.3,0`` as a count or times."""
    if text is None:
        return None
    try:
        return [float(t) for t in text.split(",")] if "," in text else int(text)
    except ValueError:
        raise InvalidArgumentError(f"--steps must be a count or times such as 1,0.5,0, got {text!r}") from None


def describe(sampler: Sampler, steps: int | list[float] | None, mean_flow_steps: int) -> str:
    """The steps of a run in words."""
    count = len(steps) - 1 if isinstance(steps, list) else steps or sampler.spec.default_inference_steps
    times = f" at {', '.join(map(str, steps))}" if isinstance(steps, list) else ""
    return f"{count} inference steps{times} x {mean_flow_steps} Mean Flow steps"


def named(model: str) -> str:
    """What a model's files are called: by its own name, or by its run's folder where each run has a model.*."""
    path = Path(model.removeprefix("bundled:"))
    return path.absolute().parent.name or path.stem if path.stem == "model" and path.suffix else path.stem
