"""ONNX Runtime as a network: on the CPU, or on CUDA with every tensor staying on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import refuse_gradients
from ..errors import CheckpointError, InvalidArgumentError
from ..models.artefact import check_network, read_graph
from ..models.spec import ModelSpec
from .session import has_cuda_provider, open_session, runtime

__all__ = ["SessionNetwork", "bind", "check_signature", "default_device", "load_onnx"]


@final
class SessionNetwork:
    """A session of an exported network. Inputs and output are float32, whatever the graph computes in.

    The session is ONNX Runtime's, or on the CPU OpenVINO's.
    """

    def __init__(self, session: Any, channels: int, device: torch.device) -> None:
        self.session = session
        self.channels = channels
        self.device = device

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session cannot be pickled: open its file in each process by Sampler.from_pretrained")

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate the graph on the session's device."""
        refuse_gradients(x, "a session of an exported file")
        if x.device.type != self.device.type:
            raise InvalidArgumentError(f"x is on {x.device}, the session on {self.device}")
        x, times = x.detach().float().contiguous(), times.detach().float().contiguous()
        if self.device.type == "cpu":
            (u,) = self.session.run(["u"], {"x": x.numpy(), "times": times.numpy()})
            return torch.from_numpy(u)
        return self._on_device(x, times)

    def _on_device(self, x: Tensor, times: Tensor) -> Tensor:
        """Bind torch's memory to the session's inputs and output: nothing is copied."""
        u = x.new_empty((x.shape[0], self.channels, *x.shape[2:]))
        if self.device.type == "cuda":
            # The session runs on the stream it was opened with; other streams have to be waited for.
            torch.cuda.current_stream(self.device).synchronize()
        bind(self.session, {"x": x, "times": times}, {"u": u})
        return u


def bind(session: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    """Run ``session`` reading and writing the tensors in place, through DLPack.

    The tensors must be contiguous float32 on the session's device. Returns when the outputs are written.
    """
    ort = runtime()

    binding = session.io_binding()
    for name, tensor in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.from_dlpack(tensor))
    for name, tensor in outputs.items():
        binding.bind_ortvalue_output(name, ort.OrtValue.from_dlpack(tensor))
    session.run_with_iobinding(binding)


def default_device() -> torch.device:
    """CUDA where both PyTorch and ONNX Runtime have it, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and has_cuda_provider() else "cpu")


def load_onnx(path: Path, device: torch.device) -> tuple[ModelSpec, SessionNetwork]:
    """The spec and the session of an exported network. Whole samplers are refused: they hold no network."""
    graph, text, artefact = read_graph(path)
    check_network(artefact, path)
    spec = ModelSpec.from_json(text, str(path))
    options = None
    if device.type == "cuda":
        stream = torch.cuda.current_stream(device).cuda_stream
        options = {"device_id": str(device.index or 0), "user_compute_stream": str(stream)}
    session = open_session(path, graph, cuda=options, threads=torch.get_num_threads())
    check_signature(path, session, spec)
    return spec, SessionNetwork(session, spec.shape[0], device)


def check_signature(path: Path, session: Any, spec: ModelSpec) -> None:
    """The graph's inputs and output must be those of the spec, with a free batch."""
    expected = {
        "x": [spec.in_channels, *spec.shape[1:]],
        "times": [spec.times],
        "u": [*spec.shape],
    }
    found = {node.name: node.shape for node in (*session.get_inputs(), *session.get_outputs())}
    for name, shape in expected.items():
        if name not in found or found[name][1:] != shape or isinstance(found[name][0], int):
            raise CheckpointError(f"{path}: {name} should be [b, {', '.join(map(str, shape))}], is {found.get(name)}")
