"""The sampler: one loop over a posterior and its bridge."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from .checkpoint import load_model, resolve_model
from .checks import check_integer
from .chunks import in_chunks, rows_at_once
from .errors import CheckpointError, DeviceError, InvalidArgumentError
from .noise import Noise, fresh_seed
from .posterior import Network, Posterior
from .progress import progress_bar
from .schedule import VPSchedule
from .spec import ModelSpec

__all__ = ["Sampler", "Steps", "resolve_device", "reverse_sde", "time_grid"]

Steps = int | Sequence[float] | None
"""Inference steps: a count N (uniform in t), a decreasing grid of times from 1 to 0, or None: the default."""

BUCKET = 16  # rows of a batch-invariant evaluation
MAX_STEPS = 2**20  # times are float32, which tells no finer grid apart
logger = logging.getLogger("stmd_sdk")


def time_grid(steps: int | Sequence[float]) -> list[float]:
    """Times from 1 to 0: N uniform steps, or the given grid once checked."""
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        count = check_integer("inference_steps", steps, 1, MAX_STEPS)
        return [1 - k / count for k in range(count + 1)]
    try:
        grid = [float(t) for t in steps]
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"inference_steps must be a count or a grid of times, got {steps!r}") from error
    if len(grid) < 2 or grid[0] != 1.0 or grid[-1] != 0.0:
        raise InvalidArgumentError(f"a grid of times must begin with 1 and end with 0, got {grid}")
    if not all(t > s for t, s in pairwise(grid)):
        raise InvalidArgumentError(f"a grid of times must decrease strictly, got {grid}")
    return grid


def reverse_sde(
    posterior: Posterior, schedule: VPSchedule, times: Sequence[float], shape: tuple[int, ...], noise: Noise
) -> Iterator[tuple[float, Float[Tensor, "b *d"], Float[Tensor, "b *d"]]]:
    """The loop: x_1 ~ N(0, I); then x_0 ~ posterior(x_t, t) and x_s ~ bridge(x_0, x_t, t, s), step by step.

    Yields (s, x_s, x_0) after each step. At s = 0 the bridge is x_0 itself and takes no noise.
    """
    x_t = noise.fold(0).normal(*shape)
    for k, (t, s) in enumerate(pairwise(times), start=1):
        t_rows, s_rows = x_t.new_full((x_t.shape[0],), t), x_t.new_full((x_t.shape[0],), s)
        x_0 = posterior(x_t, t_rows, noise.fold(2 * k - 1))
        epsilon = noise.fold(2 * k).normal(*shape) if s > 0 else torch.zeros_like(x_t)
        x_t = schedule.bridge(x_0, x_t, t_rows, s_rows, epsilon)
        yield s, x_t, x_0


@final
@dataclass(frozen=True)
class Sampler:
    """A trained model, ready to draw: samples, transitions of the reverse SDE, posteriors p(x_0 | x_t).

    ``network`` is any :class:`Network`; use :meth:`from_pretrained` unless you bring your own.
    """

    network: Network
    spec: ModelSpec
    device: torch.device

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
    ) -> Sampler:
        """Load a bundled model by name ("mnist", "digits", "mixture2d") or a model file by path.

        The suffix picks the backend: PyTorch for .safetensors, ONNX Runtime for .onnx, TensorRT for .engine.
        ``device`` None takes CUDA where there is one; a device that is asked for and absent is an error.
        ``dtype`` is that of the network's arithmetic: float32, bfloat16 or float16. State stays float32.
        ``compile`` passes a .safetensors model through ``torch.compile``: a first call takes up to a minute.
        """
        path = resolve_model(name_or_path)
        _check_options(path, dtype, compile)
        match path.suffix:
            case ".safetensors":
                from .backends.torch import CompiledNetwork, TorchNetwork  # noqa: PLC0415

                chosen = resolve_device(device)
                spec, module = load_model(path)
                backend = CompiledNetwork if compile else TorchNetwork
                return cls(backend(module, chosen, dtype), spec, chosen)
            case ".onnx":
                from .backends.onnx import default_device, load_onnx  # noqa: PLC0415

                chosen = default_device() if device is None else resolve_device(device)
                spec, session = load_onnx(path, chosen)
                return cls(session, spec, chosen)
            case ".engine":
                from .backends.tensorrt import load_engine  # noqa: PLC0415

                spec, engine = load_engine(path, device)
                return cls(engine, spec, engine.device)
            case _:
                raise CheckpointError(
                    f"{path}: cannot load a {path.suffix or 'suffixless'} file, only .safetensors, .onnx or .engine"
                )

    def sample(
        self,
        n: int,
        *,
        inference_steps: Steps = None,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
        first: int = 0,
        batch_size: int | None = None,
        batch_invariant: bool = False,
        progress: bool = False,
    ) -> Float[Tensor, "n *d"]:
        """Draw samples ``first`` to ``first + n - 1`` of ``seed``: float32 on the device, images in [-1, 1].

        Sample k of a seed is the same whatever ``n``, ``first`` and ``batch_size``, up to the rounding of the
        network's sums, which depends on the batch. With ``batch_invariant`` it is the same bit for bit: whole
        buckets of 16 neighbours are drawn in place of ``batch_size`` rows, so that sample k is always row
        k mod 16 of 16, and those not asked for are dropped. ``batch_size`` None takes what fits in memory.
        With ``inference_steps`` N and ``mean_flow_steps`` M it costs N x M network evaluations a sample. A
        ``Noise`` as seed names its samples itself.
        """
        times, posterior = self._prepare(inference_steps, mean_flow_steps)
        size = self._rows_at_once if batch_size is None else check_integer("batch_size", batch_size, 1)
        self.spec.codec.prepare(self.spec.shape)
        noise, kept = self._noise(seed, n, first), slice(None)
        if batch_invariant:
            if isinstance(seed, Noise):
                raise InvalidArgumentError("batch_invariant needs a seed that is an integer: its samples are in order")
            noise, kept, size = *_whole_buckets(noise), BUCKET
        with progress_bar("sampling", math.ceil(len(noise) / size) * (len(times) - 1), "step", progress) as advance:

            def draw(rows: slice) -> Tensor:
                for t, x_t, _ in reverse_sde(posterior, self.spec.schedule, times, self.spec.shape, noise[rows]):
                    advance()
                    if t == 0:
                        return self.spec.codec.decode(x_t)
                raise AssertionError("a grid of times ends with 0")

            return in_chunks(draw, len(noise), size, shrink=batch_size is None and not batch_invariant)[kept]

    def trajectory(
        self,
        n: int,
        *,
        inference_steps: Steps = None,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
        first: int = 0,
    ) -> Iterator[tuple[float, Float[Tensor, "n *d"], Float[Tensor, "n *d"]]]:
        """Yield (t, x_t, x_0) as sampling goes: where the path is, and the draw of x_0 that led there.

        Both as the network sees them: the last x_t, decoded, is what ``sample`` returns.
        """
        times, posterior = self._prepare(inference_steps, mean_flow_steps)
        return reverse_sde(posterior, self.spec.schedule, times, self.spec.shape, self._noise(seed, n, first))

    def transition(
        self,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        s: float | Float[Tensor, " b"],
        *,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
    ) -> Float[Tensor, "b *d"]:
        """One step of the reverse SDE: x_s ~ p(x_s | x_t), 0 <= s <= t <= 1, t > 0.

        ``seed`` uses the keys of a run's first step; in a loop of your own pass a fresh ``Noise`` a step.
        """
        x_t, t = self._state(x_t, t)
        s = _times(s, len(x_t), self.device)
        if not bool(((s >= 0) & (s <= t)).all()):
            raise InvalidArgumentError("s must lie in [0, t]")
        noise = self._noise(seed, len(x_t), 0)
        x_0 = self._posterior(mean_flow_steps)(x_t, t, noise.fold(1))
        return self.spec.schedule.bridge(x_0, x_t, t, s, noise.fold(2).normal(*self.spec.shape))

    def posterior(
        self,
        x_t: Float[Tensor, "b *d"],
        t: float | Float[Tensor, " b"],
        *,
        draws: int = 1,
        mean_flow_steps: int = 1,
        seed: int | Noise | None = None,
    ) -> Float[Tensor, "draws b *d"]:
        """``draws`` draws of p(x_0 | x_t) for each sample, as the network sees x_0 (not decoded).

        STMD's are independent; DDPM and Mean Flow know one point a state, so all their draws are equal.
        """
        x_t, t = self._state(x_t, t)
        draws = check_integer("draws", draws, 1)
        noise = self._noise(seed, len(x_t), 0).fold(1).draws(draws)
        posterior = self._posterior(mean_flow_steps)
        x_t, t = x_t.repeat(draws, *[1] * (x_t.ndim - 1)), t.repeat(draws)

        def draw(rows: slice) -> Tensor:
            return posterior(x_t[rows], t[rows], noise[rows])

        x_0 = in_chunks(draw, len(t), self._rows_at_once, shrink=True)
        return x_0.reshape(draws, -1, *self.spec.shape)

    @property
    def _rows_at_once(self) -> int:
        return rows_at_once(self.spec.shape, self.device)

    def _prepare(self, inference_steps: Steps, mean_flow_steps: int) -> tuple[list[float], Posterior]:
        times = time_grid(self.spec.default_inference_steps if inference_steps is None else inference_steps)
        if self.spec.objective == "meanflow" and len(times) != 2:
            raise InvalidArgumentError("Mean Flow knows t = 1 only: inference_steps must be 1")
        return times, self._posterior(mean_flow_steps)

    def _posterior(self, mean_flow_steps: int) -> Posterior:
        mean_flow_steps = check_integer("mean_flow_steps", mean_flow_steps, 1, MAX_STEPS)
        if self.spec.objective == "ddpm" and mean_flow_steps != 1:
            raise InvalidArgumentError("DDPM has no Mean Flow inside: mean_flow_steps must be 1")
        return self.spec.build_posterior(self.network, mean_flow_steps)

    def _noise(self, seed: int | Noise | None, n: int, first: int) -> Noise:
        if isinstance(seed, Noise):
            if len(seed) != check_integer("n", n, 1):
                raise InvalidArgumentError(f"the given Noise is the key of {len(seed)} samples, not {n}")
            if first != 0:
                raise InvalidArgumentError("first goes with an integer seed; a Noise names its samples itself")
            return seed.to(self.device)
        if seed is None:
            seed = fresh_seed()
            logger.info("drawing with fresh seed %d", seed)
        return Noise.of(seed, n, first=first, device=self.device)

    def _state(self, x_t: Any, t: Any) -> tuple[Tensor, Tensor]:
        """Check x_t and t once, at the public border."""
        if not isinstance(x_t, Tensor):
            raise InvalidArgumentError(f"x_t must be a torch.Tensor, got a {type(x_t).__name__}")
        if x_t.shape[1:] != self.spec.shape or len(x_t) == 0:
            shape = ", ".join(map(str, self.spec.shape))
            raise InvalidArgumentError(f"x_t must have shape [b, {shape}] with b >= 1, got {list(x_t.shape)}")
        if x_t.dtype != torch.float32:
            raise InvalidArgumentError(f"x_t must be float32, got {x_t.dtype}")
        if x_t.device.type != self.device.type:
            raise InvalidArgumentError(f"x_t is on {x_t.device}, the sampler on {self.device}")
        if not bool(x_t.isfinite().all()):
            raise InvalidArgumentError("x_t has values that are not finite")
        t = _times(t, len(x_t), self.device)
        if not bool(((t > 0) & (t <= 1)).all()):
            raise InvalidArgumentError("t must lie in (0, 1]")
        if self.spec.objective == "meanflow" and not bool((t == 1).all()):
            raise InvalidArgumentError("Mean Flow knows t = 1 only")
        return x_t, t


def _check_options(path: Path, dtype: torch.dtype, compile: bool) -> None:
    """Raise for options that mean nothing for this kind of file."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise InvalidArgumentError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
    if path.suffix in (".onnx", ".engine") and dtype != torch.float32:
        raise InvalidArgumentError(f"the precision of {path} was fixed by stmd-export --precision; leave out dtype")
    if path.suffix in (".onnx", ".engine") and compile:
        raise InvalidArgumentError(f"{path} holds no PyTorch module to compile; leave out compile=True")


def _whole_buckets(noise: Noise) -> tuple[Noise, slice]:
    """The key of all samples of the buckets that consecutive samples lie in, and where these are among them."""
    first, n = int(noise.indices[0]), len(noise)
    before, after = first % BUCKET, -(first + n) % BUCKET
    whole = Noise.of(noise.seed, before + n + after, first=first - before, device=noise.indices.device)
    return whole, slice(before, before + n)


def _times(t: Any, n: int, device: torch.device) -> Tensor:
    try:
        rows = torch.as_tensor(t, dtype=torch.float32, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(f"times must be a number or a tensor of shape [{n}], got {t!r}") from error
    if rows.ndim > 1 or (rows.ndim == 1 and len(rows) != n):
        raise InvalidArgumentError(f"times must be a number or a tensor of shape [{n}], not {list(rows.shape)}")
    return rows.expand(n)


def resolve_device(device: torch.device | str | None) -> torch.device:
    """The CPU or CUDA device asked for, or CUDA where there is one; DeviceError if it is absent."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"no such device: {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise DeviceError(f"device must be cpu or cuda, got {device!r}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        built = "this PyTorch is a CPU build" if torch.version.cuda is None else "no CUDA device is visible"
        raise DeviceError(f"CUDA was asked for, but {built}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"{device!r} was asked for, but only {torch.cuda.device_count()} CUDA devices are visible")
    return chosen
