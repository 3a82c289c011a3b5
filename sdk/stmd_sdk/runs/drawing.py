"""Drawing the samples of a key by a whole run: in batches that fit, behind a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..progress import progress_bar
from .chunks import in_chunks, rows_at_once
from .inputs import BUCKET, check_samples, whole_buckets
from .run import Run

__all__ = ["draw_samples"]


def draw_samples(
    run_of: Callable[[int, Callable[[], None]], Run],
    noise: Noise,
    times: Sequence[float],
    mean_flow_steps: int,
    shape: tuple[int, ...],
    batch_size: int | None,
    batch_invariant: bool,
    progress: bool,
) -> Float[Tensor, "n *decoded"]:
    """The decoded samples of ``noise``, all finite, of ``shape`` as the network sees them.

    ``run_of`` makes the run from the most rows that it will see at once and what it calls after each inference step.
    With ``batch_invariant`` whole buckets of consecutive samples are run, and those that are not asked for dropped.
    """
    fitting = rows_at_once(shape, noise.indices.device)
    size, kept = fitting if batch_size is None else check_integer("batch_size", batch_size, 1), slice(None)
    if batch_invariant:
        noise, kept, size = *whole_buckets(noise), BUCKET
    shrink = batch_size is None and not batch_invariant
    with progress_bar("sampling", math.ceil(len(noise) / size) * (len(times) - 1), "step", progress) as advance:
        run = run_of(size, advance)
        drawn = in_chunks(lambda rows: run(noise[rows], times, mean_flow_steps), len(noise), size, shrink=shrink)
    return check_samples(drawn[kept])
