"""A model as inference sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..codecs.codec import Codec
from ..diffusion.loop import reverse_sde
from ..diffusion.noise import Noise
from ..diffusion.posterior import Posterior, bounded
from ..diffusion.schedule import Schedule
from ..operators import GaussianNoise, LinearOperator, Measurement, check_scale, doubt_scale
from ..operators.scaled import through_codec
from .guidance import LogLikelihood

__all__ = ["Prior"]


@final
@dataclass(frozen=True, eq=False)
class Prior:
    """Draws of p(x_0 | x_t), the schedule of x_t, and the codec from x_0 [b, *shape] to samples."""

    posterior: Posterior
    schedule: Schedule
    codec: Codec
    shape: tuple[int, ...]
    sigma_data: float
    device: torch.device

    @property
    def bounded(self) -> Prior:
        """The same with draws clamped as the data are, where they are.

        A likelihood of clamped samples does not cancel against the noising of samples that are not.
        """
        bound = self.codec.bound
        return self if bound is None else replace(self, posterior=bounded(self.posterior, bound))

    def draw(self, times: Sequence[float], noise: Noise) -> Float[Tensor, "b *d"]:
        """x_0 ~ p(x_0), at the end of the reverse SDE on the grid ``times``."""
        *_, (_, x_0, _) = reverse_sde(self.posterior, self.schedule, times, self.shape, noise)
        return x_0

    def seen(self, log_likelihood: LogLikelihood) -> LogLikelihood:
        """A linear measurement of samples with Gaussian noise as one of x_0, once its scale is checked."""
        if not isinstance(log_likelihood, Measurement) or not isinstance(log_likelihood.noise, GaussianNoise):
            return log_likelihood
        operator, y = log_likelihood.operator, log_likelihood.y.to(self.device)
        if not isinstance(operator, LinearOperator):
            return log_likelihood
        if self.codec.bound is not None:
            check_scale(operator, y, self.shape, self.codec.bound, log_likelihood.noise.sigma)
            doubt_scale(operator, y, self.shape, self.codec.bound, log_likelihood.noise.sigma)
        return Measurement(*through_codec(operator, y, self.codec), log_likelihood.noise)
