"""Where the time of one evaluation goes in eager PyTorch on a CPU, and what channels-last layouts bring.

    python benchmarks/shares.py --models unet-mnist --batches 1 64
    python benchmarks/shares.py --models unet-cifar10 --batches 1 8

Shares are of the processor time that PyTorch's profiler finds in each operator itself, the median of some evaluations
of a network with random weights, in float32 on one thread. The rest is what no kind is named for.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from itertools import product
from pathlib import Path

import torch
from contenders import checkpoint
from measuring import Call, interleaved
from torch import nn
from torch.profiler import ProfilerActivity, profile

from stmd_sdk.models.checkpoint import load_model

KINDS = {
    "convolutions": ("convolution", "conv2d"),
    "matrix products": ("addmm", "aten::mm", "bmm", "linear"),
    "attention": ("attention", "softmax"),
    "norms": ("norm", "batch_norm"),
    "activations": ("silu", "gelu", "sigmoid"),
    "sums and products": ("aten::add", "aten::mul", "aten::div", "aten::sub"),
    "copies": ("copy", "aten::cat", "clone", "upsample", "shuffle", "aten::fill", "constant_pad"),
}
REST = "the rest"


def kind_of(operator: str) -> str:
    """The kind of an operator by its name; the first that fits."""
    fits = (kind for kind, names in KINDS.items() if any(name in operator for name in names))
    return next(fits, REST)


def shares(call: Call) -> dict[str, float]:
    """The share of each kind in one call."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for event in profiled.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    return {kind: time / sum(spent.values()) for kind, time in spent.items()}


def evaluation(module: nn.Module, x: torch.Tensor, times: torch.Tensor) -> Call:
    """One evaluation, as ``Sampler`` makes it."""

    def call() -> None:
        with torch.inference_mode():
            module(x, times)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["unet-mnist"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | batch | " + " | ".join([*KINDS, REST]) + " | channels last |")
    print("|---" * (len(KINDS) + 4) + "|")
    for model, batch in product(options.models, options.batches):
        with tempfile.TemporaryDirectory() as folder:
            spec, module = load_model(checkpoint(model, Path(folder)))
        x, times = torch.randn(batch, spec.in_channels, *spec.shape[1:]), torch.rand(batch, spec.times)
        last = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs lack it
        calls = evaluation(module, x, times), evaluation(last, x, times)
        _, (plain, faster) = interleaved(calls, x.device, options.rounds)
        found = [shares(calls[0]) for _ in range(options.rounds)]
        cells = [f"{statistics.median(each[kind] for each in found):.0%}" for kind in found[0]]
        gain = statistics.median(a / b for (_, a), (_, b) in zip(plain, faster, strict=True))
        print(f"| {model} | {batch} | " + " | ".join(cells) + f" | {gain:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
