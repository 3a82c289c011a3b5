"""Work in chunks of rows that fit memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior
from ..errors import DeviceError, out_of_memory

__all__ = ["chunked", "in_chunks", "rows_at_once"]

# Numbers of state at once. On a CPU the time a sample is least there (64 MNIST digits, measured) and the activations
# of a U-Net 128 channels wide stay below 1 GB. A GPU wants more work a launch; where it has no room, chunks shrink.
STATE = {"cpu": 2**16, "cuda": 2**18}
ROWS = 4096


def rows_at_once(shape: tuple[int, ...], device: torch.device) -> int:
    """Rows of ``shape`` to work on at once where the user gives no batch size: a power of two, at most 4096."""
    rows = max(1, STATE[device.type] // math.prod(shape))
    return min(ROWS, 2 ** int(math.log2(rows)))


def in_chunks(draw: Callable[[slice], Float[Tensor, "rows *d"]], n: int, size: int, *, shrink: bool) -> Tensor:
    """``draw`` of rows 0 to n - 1, ``size`` at once; where memory runs out, half as many if they may ``shrink``.

    :class:`DeviceError` if they may not, or if one row is too many.
    """
    parts: list[Tensor] = []
    start, size = 0, min(size, n)
    while start < n:
        stop = min(start + size, n)
        try:
            parts.append(draw(slice(start, stop)))
        except Exception as error:  # PyTorch, NumPy and ONNX Runtime each have one of their own
            if not out_of_memory(error):
                raise
            if not shrink or size == 1:
                raise DeviceError(f"{size} samples at once do not fit in memory; give a smaller batch_size") from error
            size //= 2
        else:
            start = stop
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def chunked(posterior: Posterior) -> Posterior:
    """The same posterior, evaluated on as many rows at once as fit memory."""

    def draw(x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b *d"]:
        size = rows_at_once(tuple(x_t.shape[1:]), x_t.device)
        return in_chunks(lambda rows: posterior(x_t[rows], t[rows], noise[rows]), len(t), size, shrink=True)

    return draw
