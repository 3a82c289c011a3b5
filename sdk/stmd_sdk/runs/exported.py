"""Whole samplers without PyTorch: ``noise`` in, samples out, with NumPy and ONNX Runtime or OpenVINO alone.

A whole sampler is a file of ``stmd-export --whole``: grid, networks, bridge and decoder in one graph.
Its one input is the noise [2N, b, ...] of the keys ``fold(0)`` to ``fold(2N - 1)``; of a file that takes them, the
labels [b] are a second. Made here by NumPy, the noise has the same bits as that of :class:`stmd_sdk.Noise` on the CPU,
so the samples are those of :meth:`stmd_sdk.Sampler.sample` up to the rounding of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.noise import Noise

from ..backends.openvino_session import Arithmetic, open_ir
from ..backends.session import open_session
from ..checks import check_integer
from ..config import read_config, read_json
from ..diffusion import philox
from ..diffusion.classes import UNLABELLED, Classes, PlainLabels
from ..diffusion.host_philox import host_normals
from ..errors import CheckpointError, InvalidArgumentError
from ..models.artefact import Artefact, check_network, read_graph, read_onnx
from ..models.ir import read_ir

__all__ = ["ExportedRun", "is_whole_sampler"]

BATCH = 64  # rows at once where the user gives no batch size


def is_whole_sampler(path: Path) -> bool:
    """Whether an .onnx or .xml file of stmd-export is a whole sampler (not a network). Damaged files raise."""
    match path.suffix:
        case ".onnx":
            return read_onnx(path)[1].kind == "sampler"
        case ".xml":
            return read_ir(path).artefact.kind == "sampler"
        case _:
            return False


@final
@dataclass(frozen=True)
class ExportedRun:
    """A whole run inside a file, opened. ``shape`` is that of one sample as the network sees it, channels first.

    ``classes`` are those that :meth:`sample` may be asked for: None of a file without the input ``labels``.
    """

    session: Any
    name: str
    shape: tuple[int, ...]
    artefact: Artefact
    classes: Classes | None = None

    @classmethod
    def open(cls, path: str | Path, *, threads: int = 0, arithmetic: Arithmetic = "f32") -> ExportedRun:
        """Open a file of ``stmd-export --whole`` on the CPU; with ``threads`` 0 the runtime chooses.

        An .xml computes in ``arithmetic``; that of an .onnx file was fixed when it was exported.
        """
        path = Path(path)
        text, artefact, session_of = _read(path)
        if artefact.kind == "restorer":
            check_network(artefact, path)
        if artefact.kind != "sampler":
            raise CheckpointError(
                f"{path} is a network, not a whole sampler: load it with Sampler.from_pretrained, which "
                "needs PyTorch, or export it with: stmd-export --whole"
            )
        spec = read_json(text, f"{path}: its spec", CheckpointError)
        name, shape = _name_and_shape(spec, path)
        classes = _classes(spec, path) if artefact.takes_labels else None
        session = session_of(threads, arithmetic)
        inputs = session.get_inputs()
        steps = len(artefact.times) - 1
        expected = [2 * steps, *shape]
        if [node.name for node in inputs] != ["noise", "labels"][: 1 + artefact.takes_labels] or [
            inputs[0].shape[0],
            *inputs[0].shape[2:],
        ] != expected:
            raise CheckpointError(f"{path}: its input is not noise [{2 * steps}, b, {', '.join(map(str, shape))}]")
        return cls(session, name, shape, artefact, classes)

    @property
    def inference_steps(self) -> int:
        """N, fixed when the file was exported."""
        return len(self.artefact.times) - 1

    def sample(
        self,
        n: int,
        *,
        labels: PlainLabels = None,
        seed: int | None = None,
        first: int = 0,
        batch_size: int | None = None,
    ) -> NDArray[np.float32]:
        """Draw samples ``first`` to ``first + n - 1`` of ``seed``: decoded, images [n, c, h, w] in [-1, 1].

        Sample k of a seed is the same whatever ``n``, ``first`` and ``batch_size``; without a seed a new one
        is used. The bounds are those of :meth:`stmd_sdk.Sampler.sample`, and so are ``labels``, of a file that takes
        them.
        """
        seed = philox.fresh_seed() if seed is None else check_integer("seed", seed, 0, 2**64 - 1)
        n = check_integer("n", n, 1, 2**32)
        first = check_integer("first", first, 0, 2**32 - n)
        size = min(n, BATCH) if batch_size is None else check_integer("batch_size", batch_size, 1)
        indices = np.arange(first, first + n)
        numbers = self._numbers(labels, seed, indices)
        chunks = (slice(start, start + size) for start in range(0, n, size))
        return np.concatenate([self._draw(seed, indices[rows], numbers[rows]) for rows in chunks])

    def _numbers(self, labels: PlainLabels, seed: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        if labels is None:
            return np.full_like(indices, UNLABELLED)
        if self.classes is None:
            held = "all classes together" if self.artefact.label is None else f"class {self.artefact.label} alone"
            raise InvalidArgumentError(f"labels: {self.name} draws {held}; export it with --labels to choose")
        return np.array(self.classes.numbers(labels, seed, indices), np.int64)

    def __call__(self, noise: Noise, times: Sequence[float], mean_flow_steps: int, /) -> Tensor:
        """The samples of ``noise``, for those who have PyTorch: a :class:`.run.Run` of the file's own times and M."""
        import torch  # noqa: PLC0415  the file runs without it

        if (tuple(times), mean_flow_steps) != (self.artefact.times, self.artefact.mean_flow_steps):
            held = f"times {self.artefact.times} and M = {self.artefact.mean_flow_steps}"
            raise InvalidArgumentError(f"{self.name} holds a run with {held}, not {tuple(times)} and {mean_flow_steps}")
        held = UNLABELLED if self.artefact.label is None else self.artefact.label
        labels = torch.full_like(noise.indices, UNLABELLED) if noise.labels is None else noise.labels
        if not self.artefact.takes_labels and bool((labels != held).any()):
            raise InvalidArgumentError(f"{self.name} holds a run of label {held} alone ({UNLABELLED} is none)")
        return torch.from_numpy(self._draw(int(noise.key), noise.indices.numpy(), labels.numpy()))

    def _draw(self, seed: int, indices: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        keys = [philox.fold(seed, i) for i in range(2 * self.inference_steps)]
        noise = host_normals(keys, indices, math.prod(self.shape)).reshape(len(keys), len(indices), *self.shape)
        given = {"noise": noise, "labels": labels} if self.artefact.takes_labels else {"noise": noise}
        samples: NDArray[np.float32] = self.session.run(["samples"], given)[0]
        return samples


def _read(path: Path) -> tuple[str, Artefact, Callable[[int, Arithmetic], Any]]:
    """The spec (as JSON) and the artefact of a file, and what opens a session of the bytes that were checked."""
    if path.suffix == ".xml":
        ir = read_ir(path)
        return ir.spec, ir.artefact, lambda threads, how: open_ir(ir, path, threads=threads, arithmetic=how)
    graph, text, artefact = read_graph(path)

    def session(threads: int, arithmetic: Arithmetic) -> Any:
        if arithmetic != "f32":
            raise InvalidArgumentError(f"the precision of {path} was fixed by stmd-export --precision")
        return open_session(path, graph, threads=threads)

    return text, artefact, session


def _classes(spec: Any, path: Path) -> Classes:
    """The classes of a file that takes labels."""
    try:
        return read_config(Classes, spec.get("classes"), "classes")
    except InvalidArgumentError as error:
        raise CheckpointError(f"{path}: takes labels, and has a foreign or damaged spec ({error})") from error


def _name_and_shape(spec: Any, path: Path) -> tuple[str, tuple[int, ...]]:
    """What a whole sampler needs of its spec; the spec's own class cannot be read without PyTorch."""
    match spec:
        case {"name": str(name), "shape": list(sides)} if sides and all(
            type(side) is int and side > 0 for side in sides
        ):
            return name, tuple(sides)
        case _:
            raise CheckpointError(f"{path}: a foreign or damaged spec, without a name or a shape")
