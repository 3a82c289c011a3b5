"""diffusers' U-Net in OpenVINO, as a pipeline of diffusers takes it: what a user of optimum-intel has."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, final

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from stmd_sdk.backends.openvino_session import Arithmetic, compile_options, openvino

__all__ = ["OpenVinoUNet", "openvino_unet"]


@final
@dataclass(frozen=True)
class OpenVinoUNet:
    """What ``DDIMPipeline`` asks of its U-Net, and the request of a compiled model behind it."""

    request: Any
    config: Any
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")

    def __call__(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        """One evaluation at one timestep."""
        found = self.request.infer({"x": x.numpy(), "t": t.reshape(1).numpy()})
        return SimpleNamespace(sample=torch.from_numpy(found["noise"].copy()))


@final
class _Sample(nn.Module):
    """The tensor of a U-Net's output."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unet(x, t).sample


def openvino_unet(unet: UNet2DModel, batch: int, arithmetic: Arithmetic) -> OpenVinoUNet:
    """The U-Net compiled for one batch, PyTorch's threads and one stream, as this project compiles its own."""
    x = torch.zeros(batch, int(unet.config["in_channels"]), *[int(unet.config["sample_size"])] * 2)
    program = torch.onnx.export(
        _Sample(unet).eval(), (x, torch.zeros(1, dtype=torch.long)), dynamo=True, opset_version=21, verbose=False,
        input_names=["x", "t"], output_names=["noise"],
    )  # fmt: skip
    assert program is not None
    graph = program.model_proto.SerializeToString()
    core = openvino().Core()
    options = compile_options(core, torch.get_num_threads(), arithmetic)
    compiled = core.compile_model(core.read_model(graph), "CPU", options)
    return OpenVinoUNet(compiled.create_infer_request(), unet.config)
