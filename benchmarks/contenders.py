"""What the latency benchmark times: the SDK's backends, their bare evaluations, and diffusers' pipelines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from typing import Any, final

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from measuring import Call
from openvino_peer import openvino_unet
from torch import Tensor, nn

from stmd_export import Whole, export_onnx, export_openvino
from stmd_sdk import ModelSpec, Sampler
from stmd_sdk.backends.openvino import ARITHMETIC
from stmd_sdk.codecs.codec import PixelCodec
from stmd_sdk.diffusion.network import Network
from stmd_sdk.errors import DeviceError, InvalidArgumentError, StmdError
from stmd_sdk.models.checkpoint import bundled_models, load_model, resolve_model, save_model
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import PRESETS
from stmd_sdk.networks.unet import UNet
from stmd_sdk.runs.exported import ExportedRun

BACKENDS = ["eager", "captured", "compiled", "onnx", "openvino", "whole", "whole-openvino"]
PEERS = ["loop", "ddim", "ddim-openvino", "dpm++", "ddpm"]
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SETS = 4  # of random inputs, in rotation
# The step counts that diffusers' users take, beside N x M steps.
USUAL = {"ddim": 50, "dpm++": 20, "ddpm": 1000}


@final
@dataclass(frozen=True)
class Setting:
    """One cell of the grid; all contenders take turns in it."""

    model: str
    precision: str
    batch: int
    inference_steps: int
    mean_flow_steps: int

    @property
    def evaluations(self) -> int:
        """N x M."""
        return self.inference_steps * self.mean_flow_steps


@final
@dataclass(frozen=True)
class Contender:
    """A call that draws one batch with ``evaluations`` of the network. ``bare`` names its evaluations alone."""

    name: str
    call: Call
    evaluations: int
    build: float = 0.0
    bare: str | None = None


def checkpoint(model: str, folder: Path) -> Path:
    """The file of a bundled model, or of a network preset with random weights: speed does not ask what they say."""
    if model in bundled_models():
        return resolve_model(model)
    shape = (3, 32, 32) if "cifar" in model else (4, 32, 32) if model == "dit-m2" else (1, 28, 28)
    spec = ModelSpec(model, STMD("residual"), shape, PRESETS[model], PixelCodec())
    torch.manual_seed(0)
    save_model(folder / f"{model}.safetensors", spec, spec.build_network().state_dict())
    return folder / f"{model}.safetensors"


def contenders(
    path: Path, folder: Path, setting: Setting, wanted: list[str], device: torch.device, *, usual: bool
) -> Iterator[Contender]:
    """Those of ``wanted`` that this setting and device have; ``usual`` adds the peers at their usual steps."""
    spec, module = load_model(path)
    for backend in (name for name in BACKENDS if name in wanted):
        started = time.perf_counter()
        try:
            sampler = _sampler(backend, path, folder, setting, device)
        except StmdError as error:
            leave_out(backend, str(error))
            continue
        build = time.perf_counter() - started
        if isinstance(sampler, ExportedRun):
            yield Contender(backend, _whole_call(sampler, setting), setting.evaluations, build)
            continue
        # A graph has no evaluations of its own beside it.
        bare = None if backend == "captured" else f"{backend}, bare"
        yield Contender(backend, _sample_call(sampler, setting), setting.evaluations, build, bare)
        if bare is not None:
            yield Contender(bare, _bare_call(sampler.network, spec, setting, device), setting.evaluations)
    if "loop" in wanted:
        plain = module.to(device=device, dtype=PRECISIONS[setting.precision])
        yield Contender("plain loop", _plain_loop(plain, spec, setting, device), setting.evaluations)
    peers = [name for name in PEERS if name in wanted and name in USUAL]
    if not isinstance(module, UNet):
        for peer in peers:
            leave_out(peer, f"diffusers' pipelines have a U-Net, and {setting.model} has none")
        return
    unet = _peer_unet(module, spec, device, PRECISIONS[setting.precision])
    if "ddim-openvino" in wanted and device.type == "cpu":
        yield from _openvino_peer(_peer_unet(module, spec, device, torch.float32), setting)
    for peer in peers:
        for steps in {setting.evaluations, USUAL[peer] if usual else setting.evaluations}:
            if peer != "ddpm" or steps == USUAL[peer]:
                yield Contender(f"diffusers {peer}, {steps} steps", _peer(peer, unet, setting, steps), steps)


@cache  # once a run, whatever the settings
def leave_out(name: str, reason: str) -> None:
    """Say that a contender is not measured, and why."""
    print(f"left out: {name}: {reason}")


def _sampler(backend: str, path: Path, folder: Path, setting: Setting, device: torch.device) -> Sampler | ExportedRun:
    """Raises where this device or precision has no such backend."""
    dtype, cuda = PRECISIONS[setting.precision], device.type == "cuda"
    if backend in ("onnx", "whole") and setting.precision != "float32":
        raise InvalidArgumentError(f"an export has a precision of its own, here float32 and not {setting.precision}")
    match backend:
        case "eager":
            return Sampler.from_pretrained(path, device=device, dtype=dtype, eager=True)
        case "captured":
            if not cuda:
                raise DeviceError("CUDA graphs need a GPU, and this run is on the CPU")
            return Sampler.from_pretrained(path, device=device, dtype=dtype)
        case "compiled":
            # Else shapes that other settings compiled would count against this one.
            torch.compiler.reset()
            return Sampler.from_pretrained(path, device=device, dtype=dtype, compile=True, eager=True)
        case "onnx":
            return Sampler.from_pretrained(_export(path, folder, None), device=device)
        case "openvino" | "whole" | "whole-openvino" if cuda:
            raise DeviceError("it runs on the CPU alone, and this run is on a GPU")
        case "openvino":
            return Sampler.from_pretrained(_openvino(path, folder, None), dtype=dtype)
        case "whole" | "whole-openvino":
            whole = Whole(setting.inference_steps, setting.mean_flow_steps)
            file = (_export if backend == "whole" else _openvino)(path, folder, whole)
            return ExportedRun.open(file, threads=torch.get_num_threads(), arithmetic=ARITHMETIC[dtype])
        case _:
            raise InvalidArgumentError(f"there is no such backend; there are {', '.join(BACKENDS)}")


def _export(path: Path, folder: Path, whole: Whole | None) -> Path:
    """The export of a checkpoint, made when it is first asked for."""
    name = f"{path.stem}-{'network' if whole is None else f'n{whole.inference_steps}m{whole.mean_flow_steps}'}"
    found = list((folder / name).glob("*.onnx"))
    return found[0] if found else export_onnx(path, folder / name, whole=whole)


def _openvino(path: Path, folder: Path, whole: Whole | None) -> Path:
    """The same for OpenVINO."""
    file = _export(path, folder, whole)
    found = list(file.parent.glob("*.xml"))
    return found[0] if found else export_openvino(file, path, file.parent)


def _sample_call(sampler: Sampler, setting: Setting) -> Call:
    seeds, steps = count(), setting.inference_steps
    return lambda: sampler.sample(
        setting.batch,
        inference_steps=steps,
        mean_flow_steps=setting.mean_flow_steps,
        seed=next(seeds),
        batch_size=setting.batch,
    )


def _whole_call(sampler: ExportedRun, setting: Setting) -> Call:
    seeds = count()
    return lambda: sampler.sample(setting.batch, seed=next(seeds), batch_size=setting.batch)


def _bare_call(network: Network, spec: ModelSpec, setting: Setting, device: torch.device) -> Call:
    """N x M evaluations of the network and nothing else; of a session it is ONNX Runtime alone."""
    shape = setting.batch, spec.in_channels, *spec.shape[1:]
    inputs = [(torch.randn(shape).to(device), torch.rand(setting.batch, spec.times).to(device)) for _ in range(SETS)]
    turn = count()

    def call() -> None:
        for _ in range(setting.evaluations):
            network(*inputs[next(turn) % SETS])

    return call


def _plain_loop(module: nn.Module, spec: ModelSpec, setting: Setting, device: torch.device) -> Call:
    """What a user writes without the SDK: ``torch.randn`` and the formulas, under ``no_grad``."""
    shape, schedule, target = (setting.batch, *spec.shape), spec.schedule, STMD("residual").flow_target(spec.measured)
    dtype = PRECISIONS[setting.precision]

    @torch.no_grad()
    def call() -> Tensor:
        x = torch.randn(shape, device=device)
        for t, s in pairwise(torch.linspace(1, 0, setting.inference_steps + 1, device=device)):
            rows_t, z = t.expand(setting.batch), torch.randn(shape, device=device)
            for tau, r in pairwise(torch.linspace(1, 0, setting.mean_flow_steps + 1, device=device)):
                times = torch.stack([tau, tau - r, t]).expand(setting.batch, 3)
                z = z - (tau - r) * module(torch.cat([z, x], dim=1).to(dtype), times)
            x_0 = target.decode(z, x, rows_t)
            x = schedule.bridge(x_0, x, rows_t, s.expand(setting.batch), torch.randn(shape, device=device))
        return x.clamp(-1, 1)

    return call


def _peer_unet(module: UNet, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> UNet2DModel:
    """The same U-Net as diffusers' users have it: one image in, its own timestep, its own attention."""
    config: dict[str, Any] = {key: value for key, value in module.unet.config.items() if not key.startswith("_")}
    side = spec.shape[-1] // module.fold.downscale_factor
    config |= {"in_channels": config["out_channels"], "sample_size": side, "class_embed_type": None}
    unet = UNet2DModel(**config).eval().requires_grad_(False)
    nn.Module.to(unet, device=device, dtype=dtype)  # diffusers' own warns of a cast, and does the same
    return unet


def _peer(peer: str, unet: Any, setting: Setting, steps: int) -> Call:
    if peer == "dpm++":
        return _dpm_solver(unet, setting.batch, steps)
    # diffusers types none of its pipelines' calls.
    pipeline: Any = DDIMPipeline(unet, DDIMScheduler()) if peer == "ddim" else DDPMPipeline(unet, DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=setting.batch, num_inference_steps=steps, output_type="pt")


def _openvino_peer(unet: UNet2DModel, setting: Setting) -> Iterator[Contender]:
    """The same pipeline around its U-Net in OpenVINO, in the setting's precision where the CPU has it."""
    try:
        converted = openvino_unet(unet, setting.batch, ARITHMETIC[PRECISIONS[setting.precision]])
    except StmdError as error:
        leave_out("ddim-openvino", str(error))
        return
    call = _peer("ddim", converted, setting, setting.evaluations)
    yield Contender(f"diffusers ddim in OpenVINO, {setting.evaluations} steps", call, setting.evaluations)


def _dpm_solver(unet: UNet2DModel, batch: int, steps: int) -> Call:
    """DPM-Solver++(2M) as diffusers' documentation has it: no pipeline takes it for unconditional models."""
    network: Any = unet
    scheduler: Any = DPMSolverMultistepScheduler()
    side = int(unet.config["sample_size"])
    shape = batch, int(unet.config["in_channels"]), side, side

    @torch.no_grad()
    def call() -> Tensor:
        scheduler.set_timesteps(steps)
        x = torch.randn(shape, device=unet.device, dtype=unet.dtype)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
        return x

    return call
