"""Parity: an exported graph computes what the trained network computes, or there is no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from stmd_sdk.diffusion.classes import UNLABELLED
from stmd_sdk.diffusion.labelled import with_labels
from stmd_sdk.diffusion.loop import reverse_sde, time_grid
from stmd_sdk.diffusion.network import Network
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.evaluation.distances import two_sample_p_value
from stmd_sdk.models.artefact import Artefact, Precision
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.runs.run import Run
from stmd_sdk.sampler import Sampler

from .errors import ParityError

__all__ = [
    "EDGES",
    "SEED",
    "TOLERANCES",
    "Case",
    "Parity",
    "Tolerance",
    "labelled",
    "network_parity",
    "sampler_parity",
    "samples_case",
]

SEED = 20260507
ROWS = 12  # rows of random and of real inputs, in batches of every size


@final
@dataclass(frozen=True)
class Tolerance:
    """Largest absolute difference allowed: of one evaluation, and of samples with shared noise; their RMS.

    Those of samples are for up to ``SAMPLE_STEPS`` inference steps and samples of RMS 1 at most, as images are;
    they grow in proportion beyond.
    """

    evaluation: float
    samples: float
    samples_rms: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(evaluation=1e-4, samples=1e-4, samples_rms=1e-5),
    "fp16": Tolerance(evaluation=2e-2, samples=1e-1, samples_rms=5e-3),
    "bf16": Tolerance(evaluation=1e-1, samples=5e-1, samples_rms=4e-2),
}
# Below this the samples of a reduced network are told apart from those of the float32 one.
P_VALUE = 1e-3
SAMPLE_STEPS = 4
SETTLED_ROWS, EDGES = 100, 0.02  # samples, and the share of them that may lie at an edge between local Gaussians
TWO_SAMPLE_ROWS, PERMUTATIONS = 192, 2000


@final
@dataclass(frozen=True)
class Case:
    """One comparison: what went in, in which batch, and the largest and the root mean square difference."""

    inputs: str
    batch: int
    maximum: float
    rms: float
    allowed: float


@final
@dataclass(frozen=True)
class Parity:
    """All comparisons of one artefact with eager PyTorch in float32, none of them beyond its tolerance."""

    precision: Precision
    compared: str
    cases: tuple[Case, ...]
    p_value: float | None = None

    @property
    def maximum(self) -> float:
        """The largest difference of one evaluation."""
        return max((case.maximum for case in self.cases if not case.inputs.startswith("samples")), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """For the artefact's JSON."""
        return {**asdict(self), "maximum": self.maximum, "two_sample_level": P_VALUE}


def network_parity(
    spec: ModelSpec, eager: Network, candidate: Network, sampled: Network, precision: Precision,
    batches: Sequence[int], compared: str,
) -> Parity:  # fmt: skip
    """Compare u at every batch size, on random and real inputs, both ends of τ and several t; then samples.

    ``sampled`` is the candidate, or what stands in for it in the tests of whole samples where it is too slow.
    Raises :class:`ParityError` at the first difference beyond the tolerance.
    """
    tolerance, device = TOLERANCES[precision], torch.device("cpu")
    inputs = {"random": _random_inputs(spec), "real": _real_inputs(spec, eager)}
    cases: list[Case] = []
    for name, (x, times) in inputs.items():
        expected = eager(x, times)
        for batch in batches:
            rows = _rows_of(batch)
            found = torch.cat([candidate(x[chunk], times[chunk]) for chunk in rows])
            cases.append(_case(name, batch, found, expected[torch.cat(rows)], tolerance.evaluation))
    trained, exported = Sampler(eager, spec, device), Sampler(sampled, spec, device)
    n = max(batches)
    steps = min(spec.default_inference_steps, SAMPLE_STEPS)
    count = n if spec.local_gaussians is None else max(n, SETTLED_ROWS)
    key = labelled(Noise.of(SEED, count), spec)
    drawn, reference = (
        sampler.sample(count, inference_steps=steps, seed=key, batch_size=n) for sampler in (exported, trained)
    )
    cases.append(samples_case(n, steps, *_settled(spec, drawn, reference), tolerance))
    if precision == "fp32":
        return Parity(precision, compared, tuple(cases))
    key, new = (labelled(Noise.of(SEED + i, TWO_SAMPLE_ROWS), spec) for i in (1, 2))
    one = exported.sample(TWO_SAMPLE_ROWS, inference_steps=steps, seed=key, batch_size=n)
    other = trained.sample(TWO_SAMPLE_ROWS, inference_steps=steps, seed=new)
    return Parity(precision, compared, tuple(cases), _checked_p_value(one, other))


def sampler_parity(trained: Sampler, run: Run, artefact: Artefact, batches: Sequence[int], compared: str) -> Parity:
    """Compare the samples of a whole sampler's ``run`` with those of ``trained``, of every class that it draws."""
    precision, times, mean_flow_steps = artefact.precision, artefact.times, artefact.mean_flow_steps
    tolerance, steps = TOLERANCES[precision], len(times) - 1

    def reference(noise: Noise, batch: int) -> Tensor:
        return trained.sample(
            len(noise),
            inference_steps=list(times),
            mean_flow_steps=mean_flow_steps,
            guidance=artefact.guidance,
            seed=noise,
            batch_size=batch,
        )

    def draw(batch: int, seed: int) -> tuple[Tensor, Tensor]:
        noise = labelled(Noise.of(seed, batch), trained.spec, artefact)
        return run(noise, times, mean_flow_steps), reference(noise, batch)

    cases: list[Case] = []
    for batch in batches:
        runs = 1 if trained.spec.local_gaussians is None else -(-SETTLED_ROWS // batch)
        found, expected = (
            torch.cat(parts) for parts in zip(*(draw(batch, SEED + i) for i in range(runs)), strict=True)
        )
        cases.append(samples_case(batch, steps, *_settled(trained.spec, found, expected), tolerance))
    if precision == "fp32":
        return Parity(precision, compared, tuple(cases))
    size = max(batches)
    seeds = range(SEED + 1, SEED + 1 + -(-TWO_SAMPLE_ROWS // size))
    one = torch.cat([draw(size, seed)[0] for seed in seeds])
    other = reference(labelled(Noise.of(SEED - 1, len(one)), trained.spec, artefact), 64)
    return Parity(precision, compared, tuple(cases), _checked_p_value(one, other))


def labelled(noise: Noise, spec: ModelSpec, artefact: Artefact | None = None) -> Noise:
    """The key with labels that say all that a file can be asked for: its own, or each class and then none."""
    if spec.classes is None or (artefact is not None and artefact.label is None and not artefact.takes_labels):
        return noise
    if artefact is not None and artefact.label is not None:
        return noise.labelled(torch.full_like(noise.indices, artefact.label))
    labels = torch.arange(len(noise)) % (spec.classes.count + spec.classes.null)
    return noise.labelled(torch.where(labels < spec.classes.count, labels, UNLABELLED))


def _random_inputs(spec: ModelSpec) -> tuple[Tensor, Tensor]:
    """Normal states; τ at both ends and between, r = 0 and r = τ, t from 0.001 to 1."""
    noise = Noise.of(SEED, ROWS)
    x = noise.fold(0).normal(spec.in_channels, *spec.shape[1:])
    row = torch.arange(ROWS)
    tau = torch.tensor([1.0, 0.0, 0.5])[row % 3]
    r = tau * ((row + 1) % 2)
    t = torch.tensor([0.001, 0.3, 0.7, 1.0])[row % 4]
    times = spec.objective.times_at(r, tau, t, spec.schedule)
    if spec.classes is None:
        return x, times
    w = 1 + (spec.classes.guided - 1) * (row % 5) / 4
    return x, with_labels(times, labelled(noise, spec).labels, spec.classes, w)


def _real_inputs(spec: ModelSpec, eager: Network) -> tuple[Tensor, Tensor]:
    """What the network is really given: inputs of a sampling run, from all of its steps."""
    seen: list[tuple[Tensor, Tensor]] = []

    def recorder(x: Tensor, times: Tensor, /) -> Tensor:
        seen.append((x.clone(), times.clone()))
        return eager(x, times)

    steps = min(spec.default_inference_steps, 8)
    posterior = spec.build_posterior(recorder, 2 if spec.objective.inner_flow else 1)
    key = labelled(Noise.of(SEED + 1, ROWS), spec)
    for _ in reverse_sde(posterior, spec.schedule, time_grid(steps), spec.shape, key):
        pass
    x, times = (torch.cat(parts) for parts in zip(*seen, strict=True))
    chosen = torch.linspace(0, len(x) - 1, ROWS).long()
    return x[chosen], times[chosen]


def _rows_of(batch: int) -> list[Tensor]:
    """All rows, in batches of one size: short ones begin again, large ones repeat."""
    count = -(-ROWS // batch) * batch
    return list((torch.arange(count) % ROWS).split(batch))


def _case(inputs: str, batch: int, found: Tensor, expected: Tensor, allowed: float) -> Case:
    difference = (found - expected).double()
    maximum, rms = float(difference.abs().max()), float(difference.square().mean().sqrt())
    # Written so that NaN breaches.
    if not maximum <= allowed:
        raise ParityError(
            f"the exported graph differs from the trained network by {maximum:.2g} on {inputs} inputs at "
            f"batch {batch}; allowed is {allowed:.2g}. No file was written."
        )
    return Case(inputs, batch, maximum, rms, allowed)


def _settled(spec: ModelSpec, found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """All rows; with local Gaussians without the few that differ most.

    A draw whose y_1 is near an end of its mode's interval depends on more places of y_1 than float32 has, as a few in a
    thousand do: there both files are as right. So that a few are few, ``SETTLED_ROWS`` rows are compared at least.
    """
    if spec.local_gaussians is None:
        return found, expected
    order = (found - expected).abs().flatten(1).amax(dim=1).argsort()[: math.ceil((1 - EDGES) * len(found))]
    return found[order], expected[order]


def samples_case(batch: int, steps: int, found: Tensor, expected: Tensor, tolerance: Tolerance) -> Case:
    """Samples of shared noise after ``steps`` evaluations: their largest difference and its root mean square."""
    scale = max(1.0, float(expected.double().square().mean().sqrt()))
    growth = scale * max(1.0, steps / SAMPLE_STEPS)
    name = f"samples, N = {steps}, shared noise"
    case = _case(name, batch, found, expected, tolerance.samples * growth)
    if not case.rms <= tolerance.samples_rms * growth:
        raise ParityError(
            f"with shared noise the exported graph's samples differ by {case.rms:.2g} (RMS); allowed is "
            f"{tolerance.samples_rms * growth:.2g}. No file was written."
        )
    return case


def _checked_p_value(one: Tensor, other: Tensor) -> float:
    p_value = two_sample_p_value(one, other, Noise.of(SEED, PERMUTATIONS))
    if p_value < P_VALUE:
        raise ParityError(
            f"independent samples of the exported graph and of the trained network are told apart "
            f"(p = {p_value:.2g}). No file was written."
        )
    return p_value
