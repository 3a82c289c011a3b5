"""TensorRT as a network: torch's memory bound by address, on torch's stream.

One code path over ``tensorrt`` 10 and 11 and ``tensorrt-rtx``, which share an API. An engine is an executable
artefact, bound to a flavour, a version and GPU architectures; a JSON file beside it says which. That file is
checked, and the engine's digest, before TensorRT sees a byte. Load only engines that you built or trust.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import refuse_gradients
from ..config import read_config, read_json
from ..errors import CheckpointError, DeviceError, InvalidArgumentError
from ..files import check_regular, is_file, read_bytes, sha256_of
from ..models.artefact import Artefact
from ..models.spec import ModelSpec
from .flavours import load_flavour, tensorrt_log

__all__ = [
    "BatchProfile",
    "EngineManifest",
    "EngineNetwork",
    "load_engine",
    "manifest_path",
    "read_engine",
]

MANIFEST_VERSION = 1
MANIFEST_BYTES, ENGINE_BYTES = 2**26, 2**32


@final
@dataclass(frozen=True)
class BatchProfile:
    """The batch sizes that an engine accepts, and the one it is fastest at."""

    min: int = 1
    opt: int = 16
    max: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise InvalidArgumentError(f"a batch profile needs 1 <= MIN <= OPT <= MAX, got {self}")

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    def check(self, batch: int) -> None:
        """Raise for a batch outside the profile."""
        if not self.min <= batch <= self.max:
            raise InvalidArgumentError(
                f"batch {batch} is outside the engine's profile {self} (MIN:OPT:MAX): give a batch_size in it "
                "or build another engine with: stmd-export --batch "
                f"{min(self.min, batch)}:{self.opt}:{max(self.max, batch)}"
            )


@final
@dataclass(frozen=True)
class EngineManifest:
    """All that an engine's validity depends on: with the spec and the parity report the JSON beside it.

    ``architectures`` names SM versions ("sm120"); none means every GPU from Ampere on, TensorRT-RTX's
    default. ``verified`` says whether the engine itself was run against the trained network; ``why`` if not.
    """

    sha256: str
    flavour: str
    tensorrt: str
    architectures: tuple[str, ...]
    batch: BatchProfile
    artefact: Artefact
    onnx_sha256: str
    verified: bool
    why: str
    flags: tuple[str, ...] = ()
    layers: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    made_with: dict[str, str] = field(default_factory=dict[str, str])
    seconds: float = 0.0
    version: int = MANIFEST_VERSION

    def to_json(self, spec: dict[str, Any], parity: dict[str, Any]) -> str:
        """The whole JSON file."""
        values = {"engine": asdict(self), "spec": spec, "parity": parity}
        return json.dumps({**values, SEAL: _seal(values)}, indent=2, sort_keys=True)


SEAL = "sha256_of_the_rest"


def _seal(values: dict[str, Any]) -> str:
    return sha256_of(json.dumps(values, sort_keys=True).encode())


def _check_seal(values: Any, beside: Path) -> None:
    """Raise where a number of the spec or the manifest was changed; files from before 0.2 have no seal."""
    if not isinstance(values, dict) or not values.keys() <= {"engine", "spec", "parity", SEAL}:
        raise CheckpointError(f"{beside}: foreign or damaged; it is not what stmd-export writes beside an engine")
    expected = values.get(SEAL)
    if expected is not None and _seal({key: value for key, value in values.items() if key != SEAL}) != expected:
        raise CheckpointError(f"{beside}: was changed since stmd-export wrote it; export the engine again")


def manifest_path(engine: Path) -> Path:
    """The JSON beside an engine."""
    return engine.with_name(engine.name + ".json")


@final
class EngineNetwork:
    """An engine as a network on one CUDA device, with one execution context for its one profile.

    ``engine`` is TensorRT's ``ICudaEngine``. Inputs and output are float32, whatever it computes in.
    """

    def __init__(self, engine: Any, manifest: EngineManifest, channels: int, device: torch.device) -> None:
        self.engine = engine  # the context does not keep it alive
        self.context = engine.create_execution_context()
        if self.context is None:
            raise DeviceError(f"TensorRT gave no execution context: {_lines(manifest.flavour)}")
        self.manifest = manifest
        self.channels = channels
        self.device = device

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TensorRT engine cannot be pickled: open its file in each process by Sampler.from_pretrained")

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Enqueue the engine on torch's current stream."""
        refuse_gradients(x, "a TensorRT engine")
        self.manifest.batch.check(x.shape[0])
        inputs = {"x": x.detach().float().contiguous(), "times": times.detach().float().contiguous()}
        for name, tensor in inputs.items():
            if tensor.device.type != self.device.type:
                raise InvalidArgumentError(f"{name} is on {tensor.device}, the engine on {self.device}")
            self._done(self.context.set_input_shape(name, tuple(tensor.shape)), f"the shape of {name}")
            self._done(self.context.set_tensor_address(name, tensor.data_ptr()), f"the address of {name}")
        u = x.new_empty((x.shape[0], self.channels, *x.shape[2:]), dtype=torch.float32)
        self._done(self.context.set_tensor_address("u", u.data_ptr()), "the address of u")
        # Torch's allocator reuses freed memory in stream order, so the inputs outlive the enqueued work.
        stream = torch.cuda.current_stream(self.device).cuda_stream
        with torch.cuda.device(_index(self.device)):
            self._done(self.context.execute_async_v3(stream), "to run")
        return u

    def _done(self, ok: bool, what: str) -> None:
        if not ok:
            raise DeviceError(f"TensorRT refused {what}: {_lines(self.manifest.flavour)}")


def _lines(flavour: str) -> str:
    return " | ".join(tensorrt_log(flavour).take()) or "its log says nothing"


def read_engine(path: Path) -> tuple[ModelSpec, EngineManifest, bytes]:
    """The spec, manifest and bytes of an engine, checked against each other; TensorRT is not involved."""
    beside = manifest_path(path)
    check_regular(path, CheckpointError)
    if not is_file(beside, CheckpointError):
        raise CheckpointError(f"{beside}: no such file; an engine needs the JSON that stmd-export wrote beside it")
    values = read_json(read_bytes(beside, CheckpointError, MANIFEST_BYTES), str(beside), CheckpointError)
    _check_seal(values, beside)
    engine = values.get("engine") if isinstance(values, dict) else None
    version = engine.get("version") if isinstance(engine, dict) else None
    if isinstance(version, int) and version > MANIFEST_VERSION:
        raise CheckpointError(f"{beside}: written by a newer version of the SDK; pip install -U stmd-sdk")
    try:
        manifest = read_config(EngineManifest, engine, "engine")
    except InvalidArgumentError as error:
        raise CheckpointError(f"{beside}: foreign or damaged ({error})") from error
    data = read_bytes(path, CheckpointError, ENGINE_BYTES)
    if sha256_of(data) != manifest.sha256:
        raise CheckpointError(f"{path}: not the engine that {beside.name} describes; it is truncated or was replaced")
    return ModelSpec.from_json(json.dumps(values.get("spec")), str(beside)), manifest, data


def load_engine(path: Path, device: torch.device | str | None) -> tuple[ModelSpec, EngineNetwork]:
    """The spec and the engine of a file, once it is certain that it was built for what is here."""
    spec, manifest, data = read_engine(path)
    if manifest.artefact.kind != "network":
        raise CheckpointError(
            f"{path} is a whole sampler and has no network to call; its .onnx runs with: stmd sample --model"
        )
    flavour, trt = load_flavour(manifest.flavour)
    if trt.__version__ != manifest.tensorrt:
        raise CheckpointError(
            f"{path} was built by {flavour} {manifest.tensorrt}, installed is {trt.__version__}; "
            f"build it again, or: pip install {flavour}=={manifest.tensorrt}"
        )
    try:
        chosen = torch.device("cuda" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"no such device: {device!r}") from error
    if chosen.type != "cuda" or not torch.cuda.is_available():
        raise DeviceError(
            f"{path} needs an NVIDIA GPU: {_no_gpu(chosen)}; the .onnx or .safetensors file runs on the CPU"
        )
    _check_architecture(path, manifest, torch.cuda.get_device_capability(chosen))
    runtime = trt.Runtime(tensorrt_log(flavour))
    with torch.cuda.device(_index(chosen)):  # an engine and its context live on the device that is current
        engine = runtime.deserialize_cuda_engine(data)  # host code stays disallowed, TensorRT's default
        if engine is None:
            raise CheckpointError(f"{path}: TensorRT cannot load it: {_lines(flavour)}")
        return spec, EngineNetwork(engine, manifest, spec.shape[0], chosen)


def _index(device: torch.device) -> int:
    """The index to make current; a negative one leaves the current device as it is."""
    index = cast(int | None, device.index)  # PyTorch's annotation forgets that "cuda" has none
    return -1 if index is None else index


def _check_architecture(path: Path, manifest: EngineManifest, capability: tuple[int, int]) -> None:
    here = f"sm{capability[0]}{capability[1]}"
    fits = here in manifest.architectures if manifest.architectures else capability >= (8, 0)
    if not fits:
        built = ", ".join(manifest.architectures) or "sm80 and newer"
        raise CheckpointError(f"{path} was built for {built}, this GPU is {here}: stmd-export --trt --gpu-arch {here}")


def _no_gpu(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device} was asked for"
    return "this PyTorch is a CPU build" if torch.version.cuda is None else "no CUDA device is visible"
