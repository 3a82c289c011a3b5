"""How near a model's samples are to data, over inference steps N, Mean Flow steps M and seeds."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from .. import __version__
from ..checks import check_integer
from ..console import plain
from ..data.arrays import ArrayData
from ..data.labels import labels_for, load_labelled_data
from ..data.load import load_data
from ..diffusion.classes import Classes
from ..errors import DataError, InvalidArgumentError
from ..files import written_whole
from ..models.spec import ModelSpec
from ..progress import progress_bar
from ..sampler import Sampler
from .between_seeds import Variety, variety
from .by_class import ClassFigures, class_figures, without_class
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
    """The figures of one set of samples; ``seconds`` is the time that drawing them took.

    ``classes`` are those of features that are a classifier's.
    """

    inference_steps: int
    mean_flow_steps: int
    seed: int
    frechet: float
    neighbourhood: Neighbourhood
    seconds: float
    variety: Variety
    classes: ClassFigures | None = None


@final
@dataclass(frozen=True, eq=False)
class Reference:
    """Features of real data to compare samples with.

    ``floor`` is the Fréchet distance of as many samples of the training split: what a perfect model would show. None
    where the data have one split only. ``real_without_class`` is the share of the data in which a classifier sees none.
    ``real`` are the data, where they have labels, and ``rows`` those compared with.
    """

    data: str
    shape: tuple[int, ...]
    features: Features
    vectors: Float[Tensor, "n f"]
    floor: float | None
    real_without_class: float | None = None
    real: ArrayData | None = None
    rows: Int[Tensor, " n"] | None = None

    def labels_for(self, classes: Classes | None) -> Int[Tensor, " n"]:
        """The labels of the real samples, of a model with these classes: what as many are asked for."""
        if classes is None:
            raise InvalidArgumentError("labelled: the model has no classes, it was trained without")
        if self.real is None or self.rows is None:
            raise InvalidArgumentError("labelled: the reference was made without labels")
        return labels_for(self.real, classes)[self.rows]

    def check_samples_of(self, spec: ModelSpec) -> None:
        """Raise where the model's samples are of another shape than the data."""
        if (drawn := spec.codec.decoded_shape(spec.shape)) != self.shape:
            raise InvalidArgumentError(
                f"{spec.name} draws samples of shape {list(drawn)}, {self.data} holds {list(self.shape)}"
            )

    def measure(
        self,
        draw: Callable[[int], Float[Tensor, "n *d"]],
        inference_steps: int,
        mean_flow_steps: int,
        seed: int,
        labels: Int[Tensor, " n"] | None = None,
    ) -> Quality:
        """The figures of as many samples as the reference has; ``draw`` maps their number to samples in [-1, 1].

        With ``labels``, those of the reference's own, it draws samples of these.
        """
        started = time.perf_counter()
        samples = draw(len(self.vectors)).cpu()
        seconds = time.perf_counter() - started
        vectors = self.features(samples)
        distance = frechet_distance(vectors, self.vectors)
        near = neighbourhood(self.vectors.float(), vectors.float())
        logits = self.features.logits(samples)
        classes = None if logits is None else class_figures(logits, vectors, self.vectors, labels)
        return Quality(
            inference_steps, mean_flow_steps, seed, distance, near, seconds, variety(self.vectors, vectors), classes
        )


def reference(
    data: str, *, n: int | None = None, features: str | None = None, labelled: bool = False, seed: int = 0
) -> Reference:
    """The features of ``n`` random images of the test split; by default 10,000, or all if there are fewer.

    ``labelled`` reads their labels too, for samples that are asked for by class.
    """
    held_out, train = _images(data, "test", labelled), _images(data, "train")
    n = min(SAMPLES, len(held_out)) if n is None else check_integer("n", n, 2)
    if n > len(held_out):
        raise InvalidArgumentError(f"n: {data} has {len(held_out)} images in its test split, fewer than {n}")
    extract = load_features(features, held_out.shape)
    rows = held_out.some_rows(n, seed)
    compared = held_out[rows]
    vectors, logits = extract(compared), extract.logits(compared)
    if n <= vectors.shape[1]:
        raise InvalidArgumentError(f"n: {n} samples are too few for {vectors.shape[1]} features, take more")
    floor = None
    if not train.equals(held_out) and len(train) >= n:
        floor = frechet_distance(extract(train.some(n, seed)), vectors)
    real = held_out if labelled else None
    unseen = None if logits is None else without_class(logits)
    return Reference(held_out.name, held_out.shape, extract, vectors, floor, unseen, real, rows)


def evaluate_model(
    model: str | Path,
    against: Reference,
    *,
    steps: Sequence[int] | None = None,
    mean_flow_steps: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int | None = None,
    labelled: bool = False,
    guidance: float = 1.0,
    progress: bool = False,
) -> QualityReport:
    """Measure a model at every N of ``steps``, M of ``mean_flow_steps`` and seed; None takes the model's
    default N or M.

    ``labelled`` asks it for the classes of the reference's images, one each, with ``guidance``.
    """
    sampler = Sampler.from_pretrained(model)
    spec = sampler.spec
    labels = against.labels_for(spec.classes) if labelled else None
    of_flow = mean_flow_steps or (spec.flow_steps(None),)
    runs = list(product(steps or (spec.default_inference_steps,), of_flow, seeds))
    for n, m, _ in runs:  # before the first set is drawn
        spec.check_steps(n, m)
    against.check_samples_of(spec)
    ask = partial(sampler.sample, labels=labels, guidance=guidance, batch_size=batch_size)
    rows: list[Quality] = []
    with progress_bar("evaluating", len(runs), "set", progress) as advance:
        for n, m, seed in runs:
            draw = partial(ask, inference_steps=n, mean_flow_steps=m, seed=seed)
            rows.append(against.measure(draw, n, m, seed, labels))
            advance()
    return QualityReport(
        spec.name,
        spec.objective.kind,
        against.data,
        against.features.name,
        len(against.vectors),
        against.floor,
        against.real_without_class,
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
    real_without_class: float | None
    rows: tuple[Quality, ...]
    training: dict[str, Any]
    device: str

    def table(self) -> Group:
        """Means over seeds, ± their standard deviation where there are several."""
        table = Table(title=plain(f"{self.model} against {self.samples} of {self.data}"))
        seen = all(row.classes is not None for row in self.rows)
        headings = ("N", "M", "NFE", "FD", "precision", "recall", "density", "coverage", "variety", "copies", "s")
        for heading in (*headings, *(("entropy", "no class", "label right") if seen else ())):
            table.add_column(heading, justify="right")
        for n, m in dict.fromkeys((row.inference_steps, row.mean_flow_steps) for row in self.rows):
            group = [row for row in self.rows if (row.inference_steps, row.mean_flow_steps) == (n, m)]
            near = [asdict(row.neighbourhood) for row in group]
            figures = [spread([row.frechet for row in group], 2)]
            figures += [spread([one[key] for one in near], 3) for key in near[0]]
            figures.append(spread([row.variety.between_seeds for row in group], 3))
            figures.append(spread([row.variety.near_copies for row in group], 3))
            figures.append(spread([row.seconds for row in group], 1))
            classes = [row.classes for row in group if row.classes is not None]
            right = [one.agreement for one in classes if one.agreement is not None]
            if seen:
                figures += [spread([one.entropy for one in classes], 2), spread([one.without for one in classes], 4)]
                figures.append(spread(right, 4) if right else "not asked")
            table.add_row(str(n), str(m), str(n * m), *figures)
        floor = "" if self.floor is None else f"; as many training images show {self.floor:.2f}"
        if self.real_without_class is not None:
            floor += f"; {self.real_without_class:.4f} of the real ones have no class (none as likely as all others)"
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


def _images(source: str, split: str, labelled: bool = False) -> ArrayData:
    data = (load_labelled_data if labelled else load_data)(source, split=split)
    if not isinstance(data, ArrayData):
        raise DataError(f"{source}: samples are compared with images or vectors, not with latents or a mixture")
    return data
