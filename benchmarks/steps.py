"""Whether more steps help the bundled models: each doubling of N, and a second evaluation a draw (M = 2).

    python benchmarks/steps.py [--mnist MNIST_DIR] [--n 1000] [--seeds 0 1 2 3] [--out docs/steps.json] [--write]

The distance to the data (Fréchet distance in the bundled classifier's features for mnist, in pixels for digits, sliced
W2 in the plane, energy distance of other vectors) at N = 1, 2, 4 and 8, and with M = 2 at N = 1 and 4. A doubling is
called worse where the mean of its log ratios over sampling seeds is above 0 with 95 % confidence (Student's t,
one-sided). ``--write`` puts what was found of M = 2 into the specs of the models that it makes worse, which refuse it
from then on.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

import scipy.stats
import torch
from fidelity import to_exact
from rich.console import Console
from rich.table import Table
from torch import Tensor

from stmd_sdk import Noise, Sampler
from stmd_sdk.evaluation import Reference, frechet_distance, mixture, reference
from stmd_sdk.evaluation.statistics import spread
from stmd_sdk.files import check_writable, written_whole
from stmd_sdk.models.checkpoint import bundled_models, load_model, resolve_model, save_model

STEPS = 1, 2, 4, 8
TWICE = 1, 4  # the N at which M = 2 is tried
CONFIDENCE = 0.95
BATCH = 500
VECTORS = 10_000

Distance = Callable[[int, int, int], float]
"""Of samples drawn in N inference steps of M evaluations with a seed."""


@final
@dataclass(frozen=True)
class Doubling:
    """The distances of some seeds before and after the evaluations were doubled."""

    model: str
    what: str
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def logs(self) -> Tensor:
        """log(after / before) of each seed."""
        return (torch.tensor(self.after, dtype=torch.float64) / torch.tensor(self.before, dtype=torch.float64)).log()

    @property
    def ratio(self) -> float:
        """after / before, its geometric mean."""
        return float(self.logs.mean().exp())

    @property
    def error(self) -> float:
        """The standard error of the ratio."""
        return self.ratio * float(self.logs.std()) / math.sqrt(len(self.logs))

    @property
    def worse(self) -> bool:
        """Whether the distance grows, with 95 % confidence."""
        t = self.logs.mean() / (self.logs.std() / math.sqrt(len(self.logs)))
        return float(t) > float(scipy.stats.t.ppf(CONFIDENCE, len(self.logs) - 1))


def doublings(model: str, distance: Distance, seeds: Sequence[int]) -> Iterator[Doubling]:
    """All of one model."""

    def over_seeds(n: int, m: int) -> tuple[float, ...]:
        return tuple(distance(n, m, seed) for seed in seeds)

    found = {n: over_seeds(n, 1) for n in STEPS}
    for n in STEPS[:-1]:
        yield Doubling(model, f"N = {n} to {2 * n}", found[n], found[2 * n])
    for n in TWICE:
        yield Doubling(model, f"M = 1 to 2 at N = {n}", found[n], over_seeds(n, 2))


def refusal(found: Sequence[Doubling]) -> str:
    """Why M = 2 is refused: the doublings of M that are worse, or nothing where none is."""
    worse = [one for one in found if one.what.startswith("M") and one.worse]
    if not worse:
        return ""
    ratios = " and ".join(f"{one.ratio:.2g} ± {one.error:.1g} times at {one.what.split(' at ')[1]}" for one in worse)
    return f"two evaluations a draw take the distance to the data to {ratios}"


def _distances(mnist: str | None, count: int) -> dict[str, Distance]:
    """By the model, and how it is asked; all data and models are opened before anything is drawn."""
    found = {name: _to_mixture(name) for name in ("mixture2d", "mixture64")}
    found["digits"] = _to_images("digits", reference("digits", features="pixels"))
    if mnist is not None:
        against = reference(mnist, n=count, labelled=True)
        found["mnist"] = _to_images("mnist", against)
        found["mnist given labels"] = _to_images("mnist", against, labelled=True)
    return found


def _opened(model: str) -> Sampler:
    """The model, whatever it refuses."""
    sampler = Sampler.from_pretrained(model)
    return replace(sampler, spec=replace(sampler.spec, one_flow_step=""))


def _to_mixture(model: str) -> Distance:
    sampler, data = _opened(model), mixture(model)
    real = data.sample(Noise.of(1000, VECTORS))

    def distance(n: int, m: int, seed: int) -> float:
        x = sampler.sample(VECTORS, inference_steps=n, mean_flow_steps=m, seed=seed, batch_size=BATCH)
        return to_exact(x, real, Noise.of(1001, 64))

    return distance


def _to_images(model: str, against: Reference, *, labelled: bool = False) -> Distance:
    sampler = _opened(model)
    labels = against.labels_for(sampler.spec.classes) if labelled else None

    def distance(n: int, m: int, seed: int) -> float:
        x = sampler.sample(
            len(against.vectors), inference_steps=n, mean_flow_steps=m, labels=labels, seed=seed, batch_size=BATCH
        )
        return frechet_distance(against.features(x), against.vectors)

    return distance


def write_refusal(model: str, reason: str) -> None:
    """Put ``reason`` into the spec of a model's file, and nothing else."""
    path = resolve_model(model)
    spec, network = load_model(path)
    save_model(path, replace(spec, one_flow_step=reason), dict(network.named_parameters()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", help="a folder of MNIST's files: mnist is measured too")
    parser.add_argument("--n", type=int, default=1000, help="samples of mnist, against as many test images")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3], help="of the samples, two or more")
    parser.add_argument("--out", type=Path, default=Path("steps.json"))
    parser.add_argument("--write", action="store_true", help="let the models refuse M = 2 where it is worse")
    options = parser.parse_args()
    check_writable(options.out)
    table = Table("model", "doubling", "distance before", "after", "ratio", "worse")
    found: dict[str, list[Doubling]] = {}
    for model, distance in _distances(options.mnist, options.n).items():
        for one in doublings(model, distance, options.seeds):
            found.setdefault(model, []).append(one)
            figures = (spread(list(values), 3) for values in (one.before, one.after))
            ratio = f"{one.ratio:.3f} ± {one.error:.3f}"
            table.add_row(model, one.what, *figures, ratio, "yes" if one.worse else "no")
            print(model, one.what, ratio, flush=True)
    rows = [
        {**asdict(one), "ratio": one.ratio, "error": one.error, "worse": one.worse}
        for some in found.values()
        for one in some
    ]
    facts = {"torch": torch.__version__, "machine": platform.machine(), "seeds": options.seeds, "n": options.n}
    with written_whole(options.out) as path:
        path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    console = Console(width=120)
    console.print(table)
    for model in bundled_models():
        if options.write and (reason := refusal(found.get(model, []))):
            write_refusal(model, reason)
            console.print(f"{model}: {reason}")


if __name__ == "__main__":
    main()
