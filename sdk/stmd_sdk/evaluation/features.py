"""Features to measure distances in: the hidden layer of a small classifier, trained by ``stmd-train-classifier``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..checks import check_integer
from ..config import read_config, read_json
from ..errors import CheckpointError, InvalidArgumentError
from ..files import is_file, refuse_pointer
from ..models.checkpoint import checked_weights
from ..models.tensors import read_tensors

__all__ = [
    "BUNDLED_CLASSIFIERS",
    "Classifier",
    "ClassifierFacts",
    "Features",
    "bundled_classifier",
    "load_classifier",
    "load_features",
]

CLASSIFIERS = Path(__file__).parents[1] / "assets"
SUFFIX = "-classifier.safetensors"
BUNDLED_CLASSIFIERS = tuple(sorted(path.name.removesuffix(SUFFIX) for path in CLASSIFIERS.glob(f"*{SUFFIX}")))
FACTS_KEY = "stmd_classifier"
CHUNK = 500
MOST_CLASSES = 65_536  # whatever labels a file may hold


@final
@dataclass(frozen=True)
class ClassifierFacts:
    """What a classifier was trained on, and how well it tells the classes of the test split apart."""

    shape: tuple[int, ...]
    data: str
    classes: int
    accuracy: float
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        check_integer("classes", self.classes, 1, MOST_CLASSES)
        if len(self.shape) != 3:
            raise InvalidArgumentError(f"shape: a classifier takes images [c, h, w], got {self.shape}")

    def to_json(self) -> str:
        """The facts as JSON, for the weights' file."""
        return json.dumps(asdict(self))


@final
class Classifier(nn.Module):
    """Two convolutions and two fully connected layers; the first of these gives the 128 features.

    The paper measures MNIST in the features of such a classifier before their ReLU. Its widths are this project's.
    """

    FEATURES = 128

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if height % 4 or width % 4:
            raise InvalidArgumentError(f"a classifier halves images twice: sides divisible by 4, got {height}x{width}")
        self.first = nn.Conv2d(channels, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 64, 3, padding=1)
        self.hidden = nn.Linear(4 * height * width, self.FEATURES)
        self.out = nn.Linear(self.FEATURES, classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 128"]:
        """The hidden layer before its ReLU."""
        for layer in (self.first, self.second):
            x = nn.functional.max_pool2d(layer(x).relu(), 2)
        return self.hidden(x.flatten(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Logits."""
        return self.out(self.features(x).relu())


def load_classifier(name_or_path: str | Path) -> tuple[ClassifierFacts, Classifier]:
    """A bundled classifier, or one from a file: float32, on the CPU, in evaluation mode."""
    bundled = str(name_or_path) in BUNDLED_CLASSIFIERS
    path = CLASSIFIERS / f"{name_or_path}{SUFFIX}" if bundled else Path(name_or_path)
    if not is_file(path, CheckpointError):
        raise CheckpointError(
            f"no classifier {str(name_or_path)!r}: neither a file nor one of the bundled ones "
            f"({', '.join(BUNDLED_CLASSIFIERS)}); train one with: stmd-train-classifier --data DATA --out FILE"
        )
    refuse_pointer(path, CheckpointError)
    tensors, metadata = read_tensors(path)
    if FACTS_KEY not in metadata:
        raise CheckpointError(f"{path}: not a classifier that stmd-train-classifier wrote")
    values = read_json(metadata[FACTS_KEY], f"{path}: what it says of itself", CheckpointError)
    try:
        facts = read_config(ClassifierFacts, values)
        # On the meta device no weights are allocated, however many the facts ask for.
        with torch.device("meta"):
            classifier = Classifier(facts.shape, facts.classes)
    except (ValueError, RuntimeError, OverflowError, TypeError) as error:
        raise CheckpointError(f"{path}: not a classifier that stmd-train-classifier wrote ({error})") from error
    classifier.load_state_dict(checked_weights(path, tensors, classifier.state_dict()), assign=True)
    return facts, classifier.eval().requires_grad_(False)


@final
@dataclass(frozen=True, eq=False)
class Features:
    """A map from images in [-1, 1] to vectors, and what it is in words; of a classifier, also to logits."""

    name: str
    extract: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n f"]:
        """The features of samples on the CPU, in chunks."""
        with torch.no_grad():
            return torch.cat([self.extract(rows) for rows in x.split(CHUNK)])

    def logits(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n k"] | None:
        """The classifier's logits of samples on the CPU, in chunks."""
        if self.classify is None:
            return None
        with torch.no_grad():
            return torch.cat([self.classify(rows) for rows in x.split(CHUNK)])


def bundled_classifier(shape: tuple[int, ...]) -> str | None:
    """The name of the bundled classifier that sees samples of ``shape``, if there is one."""
    return next((known for known in BUNDLED_CLASSIFIERS if load_classifier(known)[0].shape == shape), None)


def load_features(name: str | None, shape: tuple[int, ...]) -> Features:
    """Features of samples of ``shape``.

    ``name`` is "pixels" for the samples themselves, a bundled classifier's name, a classifier's file, "inception" or
    "inception:FILE"; None takes the bundled classifier of images of that shape. Raises :class:`CheckpointError` where
    its weights are not on this machine, :class:`InvalidArgumentError` for images of another shape.
    """
    if name == "pixels":
        return Features("pixels", lambda x: x.flatten(1))
    if name is not None and name.split(":")[0] == "inception":
        from .inception import inception_features  # noqa: PLC0415

        return Features(*inception_features(name.partition(":")[2] or None, shape))
    if name is None:
        name = bundled_classifier(shape)
        if name is None:
            raise InvalidArgumentError(
                f"no bundled classifier sees samples of shape {list(shape)}: train one on labelled data of that shape "
                "with stmd-train-classifier and give --features FILE, or compare --features pixels"
            )
    facts, classifier = load_classifier(name)
    if facts.shape != shape:
        raise InvalidArgumentError(
            f"classifier {name} sees images of shape {list(facts.shape)}, the samples have {list(shape)}"
        )
    words = f"classifier of {facts.data}, {100 * facts.accuracy:.2f} % accurate"
    return Features(words, classifier.features, classifier)
