"""Clocks, memory, floors and the environment, shared by the benchmarks."""

from __future__ import annotations

import ctypes
import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PACKAGES = "torch", "diffusers", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "numpy"

Call = Callable[[], object]


@final
@dataclass(frozen=True)
class Machine:
    """A device and its measured limits: FLOP/s of a matrix product, bytes/s of a copy, seconds of a CUDA launch."""

    device: torch.device
    flops: float
    bandwidth: float
    launch: float

    def floor(self, flops: float, bytes_: float, launches: int) -> float:
        """Seconds below which no program can go: the largest of arithmetic, traffic and launches."""
        return max(flops / self.flops, bytes_ / self.bandwidth, launches * self.launch)


def seconds(call: Call, device: torch.device) -> tuple[float, float]:
    """Wall and processor seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def ratio_clock(device: torch.device) -> int:
    """Which of ``seconds`` ratios are of: processor time with one CPU thread, which other work does not lengthen."""
    return 1 if device.type == "cpu" and torch.get_num_threads() == 1 else 0


def interleaved(
    calls: Sequence[Call], device: torch.device, rounds: int, budget: float = math.inf, *, warm: bool = True
) -> tuple[list[float], list[list[tuple[float, float]]]]:
    """First-call wall seconds, then (wall, processor) seconds of each call in turn, so that drift hits all alike.

    At least three rounds and at most ``rounds``; no new one once ``budget`` seconds are spent. Without ``warm``
    there is no first call that is not counted.
    """
    first = [seconds(call, device)[0] for call in calls] if warm else []
    started, taken = time.perf_counter(), [list[tuple[float, float]]() for _ in calls]
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - started > budget:
            break
        for call, times in zip(calls, taken, strict=True):
            times.append(seconds(call, device))
    return first, taken


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, p95, p99 and spread: the distance of the quartiles over the median."""
    low, median, high, p95, p99 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75, 0.95, 0.99)))
    return {"median": median, "p95": p95, "p99": p99, "spread": (high - low) / median}


def peak_memory(call: Call, device: torch.device) -> float | None:
    """Bytes that a call adds at its peak, beside what its runtime keeps; None where the system does not tell."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc: give back what earlier calls left, or this one would need no more
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        before = _resident("VmRSS")
        call()
        return max(0.0, _resident("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def evaluation_cost(module: nn.Module, x: torch.Tensor, times: torch.Tensor) -> tuple[float, float]:
    """FLOPs of one evaluation, and the bytes that it cannot help moving: weights, input, output."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        u = module(x, times)
    weights = sum(parameter.nbytes for parameter in module.parameters())
    return float(counter.get_total_flops()), float(weights + x.nbytes + times.nbytes + u.nbytes)


def launches(call: Call) -> int:
    """CUDA kernels and graphs that the host launches in one call."""
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
        torch.cuda.synchronize()
    return sum(event.count for event in profiled.key_averages() if "Launch" in event.key)


def measured_machine(device: torch.device) -> Machine:
    """The limits of this machine at this number of threads: the best of a few tries, by the clock of the ratios."""
    clock = ratio_clock(device)
    a = torch.ones(1536, 1536, device=device)
    big = torch.ones(2**26, device=device)
    copy, one = torch.empty_like(big), torch.ones(1, device=device)
    product = min(seconds(lambda: a @ a, device)[clock] for _ in range(6))
    moved = min(seconds(lambda: copy.copy_(big), device)[clock] for _ in range(4))
    launch = 0.0
    if device.type == "cuda":
        launch = min(seconds(lambda: [one.add_(1) for _ in range(1000)], device)[0] for _ in range(4)) / 1000
    return Machine(device, 2 * 1536**3 / product, 2 * big.nbytes / moved, launch)


def environment(machine: Machine) -> dict[str, object]:
    """What the numbers belong to."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
    return {
        "device": torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in load],
        "peak_gflops": machine.flops / 1e9,
        "bandwidth_gb_s": machine.bandwidth / 1e9,
        "launch_us": machine.launch * 1e6,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cuda": torch.version.cuda,
        "versions": versions,
    }


def _processor() -> str:
    """The processor's name and clock, where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{found.get('model name', platform.machine())}, {found.get('cpu MHz', 'unknown')} MHz"
