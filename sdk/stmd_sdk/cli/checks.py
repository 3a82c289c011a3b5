"""What works on this machine, tried and not guessed, and the line that mends what does not.

Every check imports what it needs by itself, so that the doctor works with any part of the installation
missing, PyTorch included.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

from ..backends.flavours import FLAVOURS, installed_flavours, load_flavour, tensorrt_log
from ..backends.session import has_cuda_provider, open_session

__all__ = ["Check", "checked", "report"]

# An ONNX graph of one Identity node on one float: what a session needs to prove that it runs.
IDENTITY = base64.b64decode("CAo6LwoQCgF4EgF5IghJZGVudGl0eRIBZ1oLCgF4EgYKBAgBEgBiCwoBeRIGCgQIARIAQgQKABAV")
NO_GPU = "it needs an NVIDIA GPU and its driver, which pip does not install"


@final
@dataclass(frozen=True)
class Check:
    """One part: whether it works here, what was found, and the line that would mend it (or "")."""

    name: str
    works: bool
    found: str
    mend: str = ""


def checked() -> list[Check]:
    """Try every backend and what it stands on. Takes some seconds; changes nothing; never raises."""
    driver = _driver()
    return [
        Check("Python", True, f"{platform.python_version()} on {platform.platform()}"),
        driver,
        _torch(),
        _torch_cuda(driver.works),
        _torch_compile(),
        _diffusers(),
        _onnxruntime(),
        _onnxruntime_cuda(driver.works),
        _openvino(),
        _export(),
        *(_tensorrt(extra, driver.works) for extra in FLAVOURS),
    ]


def report(checks: list[Check]) -> str:
    """The checks as lines of text."""
    width = max(len(check.name) for check in checks)
    lines: list[str] = []
    for check in checks:
        lines.append(f"{'works  ' if check.works else 'missing'}  {check.name:<{width}}  {check.found}")
        if check.mend:
            lines.append(f"{'':{width + 11}}{check.mend}")
    return "\n".join(lines)


def _pip(extra: str) -> str:
    return f"pip install 'stmd-sdk[{extra}]'"


def _tried(name: str, mend: str, attempt: Callable[[], str]) -> Check:
    """Works if ``attempt`` returns, and returns what was found. A broken library can raise anything."""
    try:
        return Check(name, True, attempt())
    except ImportError as error:
        missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        return Check(name, False, f"{missing.name} is not installed" if missing.name else str(error), mend)
    except Exception as error:
        return Check(name, False, str(error).strip().partition("\n")[0] or type(error).__name__, mend)


def _driver() -> Check:
    """The NVIDIA driver and the newest CUDA that it runs."""

    def attempt() -> str:
        cuda: Any = ctypes.CDLL("nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1")
        number, devices = ctypes.c_int(), ctypes.c_int()
        if (
            cuda.cuInit(0)
            or cuda.cuDriverGetVersion(ctypes.byref(number))
            or cuda.cuDeviceGetCount(ctypes.byref(devices))
        ):
            raise OSError("the driver is installed but finds no GPU")
        return f"for CUDA {number.value // 1000}.{number.value % 1000 // 10}, {devices.value} GPU(s)"

    check = _tried("NVIDIA driver", "", attempt)
    return check if check.works else Check(check.name, False, "none, or none that works; everything runs on the CPU")


def _torch() -> Check:
    def attempt() -> str:
        torch = importlib.import_module("torch")
        if float(torch.ones(2).sum()) != 2.0:
            raise RuntimeError("PyTorch adds 1 and 1 wrongly")
        return f"{torch.__version__}, {torch.get_num_threads()} threads"

    return _tried("PyTorch on the CPU", "pip install stmd-sdk", attempt)


def _torch_cuda(driver: bool) -> Check:
    def attempt() -> str:
        torch = importlib.import_module("torch")
        if torch.version.cuda is None:
            raise RuntimeError("this PyTorch is a CPU build")
        if not torch.cuda.is_available():
            raise RuntimeError(f"built for CUDA {torch.version.cuda}, but no CUDA device is visible")
        cudnn = torch.backends.cudnn.version()
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, cuDNN {cudnn}"

    mend = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"
    return _tried("PyTorch on CUDA", mend if driver else NO_GPU, attempt)


def _torch_compile() -> Check:
    """Looks for the compiler alone: compiling takes longer than all other checks together."""

    def attempt() -> str:
        torch = importlib.import_module("torch")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = importlib.import_module("stmd_sdk.backends.torch").compiler(device)
        return f"finds {found}; not tried"

    return _tried("torch.compile", "apt install g++, or on CUDA: pip install triton", attempt)


def _diffusers() -> Check:
    def attempt() -> str:
        importlib.import_module("diffusers")
        return metadata.version("diffusers")

    return _tried("diffusers (U-Nets)", "pip install stmd-sdk", attempt)


def _run_identity(cuda: dict[str, str] | None) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "identity.onnx"
        path.write_bytes(IDENTITY)
        session = open_session(path, cuda=cuda)
        numpy = importlib.import_module("numpy")
        (y,) = session.run(None, {"x": numpy.asarray(3.0, numpy.float32)})
        if float(y) != 3.0:
            raise RuntimeError("ONNX Runtime computes wrongly")
        return f"{importlib.import_module('onnxruntime').__version__}, {session.get_providers()[0]}"


def _onnxruntime() -> Check:
    return _tried("ONNX Runtime on the CPU", _pip("onnx"), lambda: _run_identity(None))


def _openvino() -> Check:
    def attempt() -> str:
        session = importlib.import_module("stmd_sdk.backends.openvino_session")
        ov, known = session.openvino(), session.cpu_arithmetic()
        units = "; no bfloat16 units, which would multiply networks some two to three times as fast"
        if "bf16" in known:
            units = "; what that does to a model: stmd certify MODEL.xml --dtype bfloat16"
        return f"{ov.__version__}, computes in {', '.join(known)}{units}"

    return _tried("OpenVINO on the CPU", _pip("openvino"), attempt)


def _onnxruntime_cuda(driver: bool) -> Check:
    def attempt() -> str:
        if not has_cuda_provider():
            raise RuntimeError("the installed onnxruntime has no CUDA provider")
        return _run_identity({})

    mend = f"pip uninstall -y onnxruntime && {_pip('onnx-gpu')}"
    return _tried("ONNX Runtime on CUDA", mend if driver else NO_GPU, attempt)


def _export() -> Check:
    def attempt() -> str:
        for module in ("onnx", "onnxscript"):
            importlib.import_module(module)
        return f"onnx {metadata.version('onnx')}, onnxscript {metadata.version('onnxscript')}"

    return _tried("stmd-export", _pip("export"), attempt)


def _tensorrt(extra: str, driver: bool) -> Check:
    """Builds engines if its builder starts; runs them only with a GPU."""

    def attempt() -> str:
        if extra not in installed_flavours():
            raise ImportError(name=extra)
        _, trt = load_flavour(extra)
        if trt.Builder(tensorrt_log(extra)) is None:
            raise RuntimeError("its builder does not start")
        return f"{trt.__version__}, builds engines" + ("" if driver else "; running them needs an NVIDIA GPU")

    return _tried(f"TensorRT ({extra})", _pip(extra), attempt)
