"""Local Gaussians: a mixture fitted to data, whose posterior is known, and the target whose flow starts from it.

The residual target is the posterior of one Gaussian, N(0, σ_d² I), undone: its flow has only to turn noise into what
makes the data differ from it. This is the same with a mixture in the Gaussian's place, for vectors.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..diffusion.schedule import Schedule
from ..diffusion.target import AbstractTarget
from ..errors import InvalidArgumentError
from .algebra import Components, entry, interval

__all__ = ["LocalGaussians", "MixtureTarget"]

CHUNK = 2**19  # numbers in one array [rows, k, d]: 2 MiB, which caches hold
TINY = 1e-7  # the least share of a mode: Φ⁻¹ of it is -5.2
# Φ⁻¹ in float32 from operations that every backend has (Giles, 2010), by powers from the highest down.
CENTRE = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
          -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
TAILS = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
         0.00943887047, 1.00167406, 2.83297682)  # fmt: skip


@final
@dataclass(frozen=True)
class LocalGaussians:
    """Σ_k w_k N(m_k, C_k) in ``dimension`` dimensions, as text, so that it rides in a model's spec as σ_d does.

    ``parameters`` is base64 of little-endian float32: the k weights, the k means, and of each covariance the lower
    triangle, row by row. InvalidArgumentError for numbers that are not finite, weights or eigenvalues that are not
    positive, or text of another length.
    """

    clusters: int
    dimension: int
    parameters: str = field(repr=False)

    def __post_init__(self) -> None:
        check_integer("clusters", self.clusters, 1)
        check_integer("dimension", self.dimension, 1)
        if not all(bool(table.isfinite().all()) for table in vars(self.components).values()):
            raise InvalidArgumentError("parameters: need finite numbers, positive weights and positive eigenvalues")

    @classmethod
    def of(
        cls, weights: Float[Tensor, " k"], means: Float[Tensor, "k d"], covariances: Float[Tensor, "k d d"]
    ) -> LocalGaussians:
        """Write the parameters down."""
        k, d = means.shape
        rows, columns = torch.tril_indices(d, d)
        numbers = torch.cat([weights, means.flatten(), covariances[:, rows, columns].flatten()])
        return cls(k, d, base64.b64encode(numbers.numpy().astype("<f4").tobytes()).decode())

    @cached_property
    def components(self) -> Components:
        """The parameters read, float32; NaN where they make no sense."""
        k, d = self.clusters, self.dimension
        try:
            numbers = np.frombuffer(base64.b64decode(self.parameters, validate=True), "<f4").astype(np.float64)
        except (binascii.Error, ValueError) as error:
            raise InvalidArgumentError(f"parameters: not base64 of float32 ({error})") from error
        triangle = d * (d + 1) // 2
        if len(numbers) != k * (1 + d + triangle):
            raise InvalidArgumentError(f"parameters: {len(numbers)} numbers are not {k} Gaussians in {d} dimensions")
        weights, means, lower = torch.from_numpy(numbers).split([k, k * d, k * triangle])
        rows, columns = torch.tril_indices(d, d)
        covariances = torch.zeros(k, d, d, dtype=torch.float64)
        covariances[:, rows, columns] = covariances[:, columns, rows] = lower.nan_to_num(posinf=0, neginf=0).view(k, -1)
        components = Components.of(weights, means.view(k, d), covariances).to(torch.float32)
        # The logarithm says whether they are positive.
        return replace(components, eigenvalues=components.eigenvalues.log().exp())


@final
@dataclass(frozen=True, eq=False)
class MixtureTarget(AbstractTarget):
    """y is the noise of which a mixture's posterior given x_t would draw x_0.

    A draw of Σ_k w_k(x_t) N(μ_k(x_t), Q_k diag(s_k²) Q_kᵀ) takes one number of y to choose k: u = Φ(y_1) lies in one of
    consecutive intervals of lengths w_k, and its place in that interval is as uniform as u was. So

        x_0 = μ_k + Q_k s_k (Φ⁻¹((u - W_{k-1}) / w_k), y_2, …, y_d),    W_k = w_1 + … + w_k,

    and for data that are the mixture y | x_t ~ N(0, I) whatever x_t: nothing is left to learn but the identity. For
    others the flow learns the difference. Each x_0 has a y for every k; ``encode`` draws k with p(k | x_0), as the law
    demands. In t it is exact: no Gaussian's shape is lost at small t, nor a mode between others at large t.
    """

    schedule: Schedule
    gaussians: LocalGaussians
    _on: dict[torch.device, Components] = field(default_factory=dict[torch.device, Components], init=False, repr=False)

    def encode(
        self, x_0: Float[Tensor, "b d"], x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise
    ) -> Float[Tensor, "b d"]:
        """One of the y of x_0, chosen by ``noise``."""
        components = self._components(x_0.device)

        def one(x_0: Tensor, x_t: Tensor, t: Tensor, uniform: Tensor) -> Tensor:
            own = components.look(x_0, torch.ones_like(t), torch.zeros_like(t))
            k = interval(uniform, own.responsibilities.cumsum(dim=1))
            look = components.look(x_t, self.schedule.alpha(t), self.schedule.variance(t))
            mean, deviation = components.given(look, k)
            y = (entry(own.e, k) - mean) / deviation
            low, width = _ends(look.responsibilities.cumsum(dim=1), k)
            return torch.cat([_quantile(low + width * _share(y[:, 0]))[:, None], y[:, 1:]], dim=1)

        return self._chunked(one, x_0, x_t, t, noise.uniform())

    def decode(
        self, y: Float[Tensor, "b d"], x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b d"]:
        """x_0 of y."""
        components = self._components(y.device)

        def one(y: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
            look = components.look(x_t, self.schedule.alpha(t), self.schedule.variance(t))
            edges, u = look.responsibilities.cumsum(dim=1), _share(y[:, 0])
            k = interval(u, edges)
            low, width = _ends(edges, k)
            y = torch.cat([_quantile((u - low) / width)[:, None], y[:, 1:]], dim=1)
            mean, deviation = components.given(look, k)
            return components.place(k, mean + deviation * y)

        return self._chunked(one, y, x_t, t)

    def _components(self, device: torch.device) -> Components:
        if device not in self._on:
            self._on[device] = self.gaussians.components.to(device)
        return self._on[device]

    def _chunked(self, function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
        """``function`` of the rows, a few at a time; of all at once in a graph, whose batch is free."""
        if torch.compiler.is_exporting():
            return function(*arguments)
        rows = max(1, CHUNK // (self.gaussians.clusters * self.gaussians.dimension))
        parts = zip(*(argument.split(rows) for argument in arguments), strict=True)
        # In float32, whatever the precision of the network's products.
        with torch.autocast(arguments[0].device.type, enabled=False):
            return torch.cat([function(*part) for part in parts])


def _share(x: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Φ(x)."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _quantile(p: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Φ⁻¹(p), within 1e-6 of its size; p is cut to [TINY, 1 - TINY]."""
    x = 2 * p.clamp(TINY, 1 - TINY) - 1
    w = -torch.log((1 - x) * (1 + x))
    # The branch not taken gets an argument of the other's range: its gradient must stay finite.
    centre = _polynomial(CENTRE, w.clamp(max=5) - 2.5)
    tails = _polynomial(TAILS, w.clamp(min=5).sqrt() - 3)
    return math.sqrt(2) * x * torch.where(w < 5, centre, tails)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _ends(edges: Float[Tensor, "b k"], k: Int[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The lower end and the length of the interval k."""
    low = entry(torch.nn.functional.pad(edges, (1, 0)), k)
    return low, (entry(edges, k) - low).clamp(min=1e-30)
