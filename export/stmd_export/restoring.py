"""The whole restoring sampler as one graph: what is asked for, checked, and its parity with ``Sampler.gibbs``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from stmd_sdk.checks import check_integer
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.inference.coupling import LinearCoupling, coupling_for
from stmd_sdk.inference.gibbs import WIDE, annealed_paths, coupling_levels
from stmd_sdk.models.artefact import Artefact
from stmd_sdk.operators import GaussianNoise, Mask, Measurement
from stmd_sdk.sampler import Sampler

from .graph import mask_shape
from .parity import EDGES, SEED, TOLERANCES, Parity, labelled, samples_case

__all__ = ["WholeRestoration", "normals_at", "restorer_parity"]

MOST_LEVELS = 300
SHARES = 0.5, 0.2  # of the coordinates, which the masks of the comparison measure
STEEP = 1e-3  # what any draw may differ by at up to SAMPLE_STEPS levels, in the place of 1e-4


@final
@dataclass(frozen=True)
class WholeRestoration:
    """Draws given the unmasked part of a sample: ``Sampler.gibbs`` of a mask, its ``levels`` couplings unrolled.

    ``sigma`` is the deviation of the noise in y. Of one class, the ``label``, or all together; with ``takes_labels``
    those of a last input.
    """

    operator: str = "mask"
    levels: int = 12
    sigma: float = 0.02
    mean_flow_steps: int = 1
    label: int | str | None = None
    takes_labels: bool = False

    def __post_init__(self) -> None:
        if self.operator != "mask":
            raise InvalidArgumentError(f"a restoring sampler is exported of 'mask', not of {self.operator!r}")
        check_integer("levels", self.levels, 1, MOST_LEVELS)
        if self.label is not None and self.takes_labels:
            raise InvalidArgumentError("a restoring sampler has one label, or takes labels, not both")

    def asked(self, trained: Sampler) -> dict[str, Any]:
        """What an artefact says of it. What ``Sampler.gibbs`` refuses is refused."""
        spec, clean = trained.spec, torch.zeros(1, *trained.spec.shape)
        if spec.codec.decoded_shape(spec.shape) != spec.shape:
            raise InvalidArgumentError("a model of latents restores no masked images in one graph")
        measured = Measurement(Mask(torch.ones(mask_shape(spec.shape))), clean, GaussianNoise(self.sigma))
        coupling = coupling_for(
            measured, spec.codec.decode, spec.shape, spec.shape, spec.schedule, spec.sigma_data, clean.device
        )
        if not (isinstance(coupling, LinearCoupling) and coupling.exact):
            least = coupling.last
            raise InvalidArgumentError(f"sigma {self.sigma:g} is below {least:.3g}, the least that the model can tell")
        label = 0 if self.takes_labels else self.label
        trained.gibbs(measured, 1, steps=1, mean_flow_steps=self.mean_flow_steps, labels=label, seed=0)
        return {
            "kind": "restorer",
            "couplings": tuple(coupling_levels(WIDE * spec.sigma_data, coupling.last, self.levels)),
            "sigma": self.sigma,
            "mean_flow_steps": self.mean_flow_steps,
            "label": None if self.label is None or spec.classes is None else spec.classes.number(self.label),
            "takes_labels": self.takes_labels,
        }

    @property
    def suffix(self) -> str:
        """What the file's name ends with."""
        steps = f"-restore-{self.operator}-l{self.levels}" + ("" if self.sigma == 0.02 else f"-s{self.sigma:g}")
        steps += "" if self.mean_flow_steps == 1 else f"-m{self.mean_flow_steps}"
        return steps + ("-labels" if self.takes_labels else "" if self.label is None else f"-{self.label}")


def normals_at(noise: Noise, levels: int, shape: tuple[int, ...]) -> Float[Tensor, "keys b *d"]:
    """The input ``noise`` of a restoring graph, by which it draws what ``Sampler.gibbs`` draws of the key."""
    rows: list[Tensor] = []
    for path in annealed_paths(levels):
        key = noise
        for i in path:
            key = key.fold(i)
        rows.append(key.normal(*shape))
    return torch.stack(rows)


def restorer_parity(
    trained: Sampler,
    run: Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]],
    artefact: Artefact,
    batches: Sequence[int],
    compared: str,
) -> Parity:
    """Compare the draws of a restoring graph, called by ``run``, with those of ``Sampler.gibbs`` of ``trained``.

    At every batch size, of masks that measure half and a fifth of a draw of the model. A few draws in a hundred come by
    where the network is so steep that they depend on more places than float32 has: PyTorch's own differ there from
    batch to batch. Those 2 % that differ most are held to ``STEEP`` alone, and to the root mean square of all.
    """
    levels, drawn = len(artefact.couplings), list[tuple[int, Tensor, Tensor]]()
    for batch in batches:
        drawn.extend((batch, *_drawn(trained, run, artefact, batch, k)) for k in range(len(SHARES)))
    found, expected = (torch.cat(parts) for parts in zip(*(pair for _, *pair in drawn), strict=True))
    order = _apart(found, expected).sort().values
    cutoff = order[math.ceil((1 - EDGES) * len(order)) - 1]
    cases = [samples_case(max(batches), levels, found, expected, replace(TOLERANCES["fp32"], samples=STEEP))]
    for batch, one, other in drawn:
        kept = _apart(one, other) <= cutoff
        if bool(kept.any()):
            cases.append(samples_case(batch, levels, one[kept], other[kept], TOLERANCES["fp32"]))
    return Parity("fp32", compared, tuple(cases))


def _apart(found: Float[Tensor, "b *d"], expected: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
    return (found - expected).abs().flatten(1).amax(dim=1)


def _drawn(
    trained: Sampler,
    run: Callable[[dict[str, NDArray[Any]]], NDArray[np.float32]],
    artefact: Artefact,
    batch: int,
    k: int,
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
    """Draws of the graph and of the sampler, of the same keys, given what mask ``k`` shows of a draw."""
    spec, levels = trained.spec, len(artefact.couplings)
    key = labelled(Noise.of(SEED + k, batch), spec, artefact)
    mask = (Noise.of(SEED + k, 1).uniform(*mask_shape(spec.shape))[0] < SHARES[k]).float()
    mask.view(-1)[0] = 1.0  # of few coordinates chance may leave none
    y = mask * trained.sample(1, seed=key[:1])
    given = {"noise": normals_at(key, levels, spec.shape), "mask": mask, "y": y}
    if artefact.takes_labels:
        assert key.labels is not None
        given["labels"] = key.labels
    found = torch.from_numpy(run({name: value.numpy() for name, value in given.items()}))
    measured = Measurement(Mask(mask), y, GaussianNoise(artefact.sigma))
    expected = trained.gibbs(measured, batch, steps=levels, mean_flow_steps=artefact.mean_flow_steps, seed=key)
    return found, expected.samples
