"""How near a model's samples are to data, over inference steps N, Mean Flow steps M and seeds."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from .. import __version__
from ..checks import check_integer
from ..console import plain
from ..data.arrays import ArrayData
from ..data.load import load_data
from ..errors import DataError, InvalidArgumentError
from ..files import written_whole
from ..progress import progress_bar
from ..sampler import Sampler
from .distances import frechet_distance
from .features import Features, load_features
from .inception import inception_weights
from .neighbours import Neighbourhood, neighbourhood
from .statistics import spread

__all__ = ["Quality", "QualityReport", "Reference", "evaluate_model", "reference"]

SAMPLES = 10_000


@final
@dataclass(frozen=True)
class Quality:
    """The figures of one set of samples; ``seconds`` is the time that drawing them took."""

    inference_steps: int
    mean_flow_steps: int
    seed: int
    frechet: float
    neighbourhood: Neighbourhood
    seconds: float


@final
@dataclass(frozen=True, eq=False)
class Reference:
    """Features of real data to compare samples with.

    ``floor`` is the Fréchet distance of as many samples of the training split: what a perfect model would show. None
    where the data have one split only.
    """

    data: str
    shape: tuple[int, ...]
    features: Features
    vectors: Float[Tensor, "n f"]
    floor: float | None

    def measure(
        self, draw: Callable[[int], Float[Tensor, "n *d"]], inference_steps: int, mean_flow_steps: int, seed: int
    ) -> Quality:
        """The figures of as many samples as the reference has; ``draw`` maps their number to samples in [-1, 1]."""
        started = time.perf_counter()
        samples = draw(len(self.vectors)).cpu()
        seconds = time.perf_counter() - started
        vectors = self.features(samples)
        distance = frechet_distance(vectors, self.vectors)
        near = neighbourhood(self.vectors.float(), vectors.float())
        return Quality(inference_steps, mean_flow_steps, seed, distance, near, seconds)


def reference(data: str, *, n: int | None = None, features: str | None = None, seed: int = 0) -> Reference:
    """The features of ``n`` random images of the test split; by default 10,000, or all if there are fewer."""
    held_out, train = _images(data, "test"), _images(data, "train")
    n = min(SAMPLES, len(held_out)) if n is None else check_integer("n", n, 2)
    if n > len(held_out):
        raise InvalidArgumentError(f"n: {data} has {len(held_out)} images in its test split, fewer than {n}")
    extract = load_features(features, held_out.shape)
    vectors = extract(held_out.some(n, seed))
    if n <= vectors.shape[1]:
        raise InvalidArgumentError(f"n: {n} samples are too few for {vectors.shape[1]} features, take more")
    floor = None
    if not train.equals(held_out) and len(train) >= n:
        floor = frechet_distance(extract(train.some(n, seed)), vectors)
    return Reference(held_out.name, held_out.shape, extract, vectors, floor)


def evaluate_model(
    model: str | Path,
    against: Reference,
    *,
    steps: Sequence[int] | None = None,
    mean_flow_steps: Sequence[int] = (1,),
    seeds: Sequence[int] = (0,),
    batch_size: int | None = None,
    progress: bool = False,
) -> QualityReport:
    """Measure a model at every N of ``steps``, M of ``mean_flow_steps`` and seed; None takes the model's default N."""
    sampler = Sampler.from_pretrained(model)
    spec = sampler.spec
    runs = list(product(steps or (spec.default_inference_steps,), mean_flow_steps, seeds))
    for n, m, _ in runs:  # before the first set is drawn
        spec.check_steps(n, m)
    if (drawn := spec.codec.decoded_shape(spec.shape)) != against.shape:
        raise InvalidArgumentError(
            f"{spec.name} draws samples of shape {list(drawn)}, {against.data} holds {list(against.shape)}"
        )
    rows: list[Quality] = []
    with progress_bar("evaluating", len(runs), "set", progress) as advance:
        for n, m, seed in runs:

            def draw(count: int, n: int = n, m: int = m, seed: int = seed) -> Tensor:
                return sampler.sample(count, inference_steps=n, mean_flow_steps=m, seed=seed, batch_size=batch_size)

            rows.append(against.measure(draw, n, m, seed))
            advance()
    return QualityReport(
        spec.name,
        spec.objective.kind,
        against.data,
        against.features.name,
        len(against.vectors),
        against.floor,
        tuple(rows),
        dict(spec.training),
        str(sampler.device),
    )


@final
@dataclass(frozen=True)
class QualityReport:
    """A model's figures, one for each N, M and seed."""

    model: str
    objective: str
    data: str
    features: str
    samples: int
    floor: float | None
    rows: tuple[Quality, ...]
    training: dict[str, Any]
    device: str

    def table(self) -> Group:
        """Means over seeds, ± their standard deviation where there are several."""
        table = Table(title=plain(f"{self.model} against {self.samples} of {self.data}"))
        for heading in ("N", "M", "NFE", "FD", "precision", "recall", "density", "coverage", "s"):
            table.add_column(heading, justify="right")
        for n, m in dict.fromkeys((row.inference_steps, row.mean_flow_steps) for row in self.rows):
            group = [row for row in self.rows if (row.inference_steps, row.mean_flow_steps) == (n, m)]
            near = [asdict(row.neighbourhood) for row in group]
            figures = [spread([row.frechet for row in group], 2)]
            figures += [spread([one[key] for one in near], 3) for key in near[0]]
            table.add_row(str(n), str(m), str(n * m), *figures, spread([row.seconds for row in group], 1))
        floor = "" if self.floor is None else f"; as many training images show {self.floor:.2f}"
        seeds = len({row.seed for row in self.rows})
        lines = [f"Features: {self.features}{floor}.", f"{seeds} seed(s), {self.device}, float32."]
        if not self.features.startswith("Inception"):
            found = inception_weights() is not None
            lines.append(f"Inception FID was not asked for; its weights are {'' if found else 'not '}on this machine.")
        return Group(table, *(Text(line) for line in lines))

    def facts(self) -> dict[str, Any]:
        """Everything in the table and the environment, as JSON holds it."""
        environment = {
            "stmd_sdk": __version__,
            "torch": torch.__version__,
            "machine": platform.platform(),
            "threads": torch.get_num_threads(),
        }
        return {**asdict(self), "environment": environment}

    def write_json(self, path: Path) -> None:
        """Write the facts."""
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(self.facts(), indent=1) + "\n")


def _images(source: str, split: str) -> ArrayData:
    data = load_data(source, split=split)
    if not isinstance(data, ArrayData):
        raise DataError(f"{source}: samples are compared with images or vectors, not with latents or a mixture")
    return data
