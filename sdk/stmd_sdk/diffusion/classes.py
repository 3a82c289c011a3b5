"""The classes of a conditional model, as plain values, and labels as users give them. Does not import PyTorch.

A label belongs to the key of its sample; :mod:`.labelled` says how it gets from there to the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, final

import numpy as np
from numpy.typing import NDArray

from ..checks import check_integer
from ..errors import InvalidArgumentError
from . import philox

__all__ = ["RANDOM", "UNLABELLED", "Classes", "PlainLabels", "parsed_label"]

UNLABELLED = -1
"""The label of a row of no class."""

PlainLabels = int | str | Sequence[int | str] | None
"""What is asked for: one class for all samples or one each, by number or name, or ``RANDOM``; None is all together."""

RANDOM = "random"
"""In place of labels: a sample's class is drawn with it, all classes as likely. A class of this name goes before."""

MOST_CLASSES = 65_536  # float32, in which labels travel beside the times, tells them all apart


@final
@dataclass(frozen=True)
class Classes:
    """The classes 0 to ``count`` - 1 of a conditional network, which have all ``names`` or none.

    With ``null`` it was trained on unlabelled rows too: without a label it draws from all classes, as they are mixed in
    its data. They are rows of a class of their own, number ``count``. Where ``guided`` is above 1 the network has
    guidance inside: it takes a w from 1 to ``guided`` too, and was trained to draw as classifier-free guidance would.
    """

    count: int
    names: tuple[str, ...] = field(default=(), compare=False)  # what they are called changes no network
    null: bool = True
    guided: float = 1.0

    def __post_init__(self) -> None:
        check_integer("classes", self.count, 1, MOST_CLASSES)
        if not 1 <= self.guided < math.inf:
            raise InvalidArgumentError(f"guided: the largest w must be finite and at least 1, got {self.guided}")
        if self.guided > 1 and not self.null:
            raise InvalidArgumentError("guided: needs unlabelled rows to guide away from: unlabelled_share above 0")
        if self.names and len(self.names) != self.count:
            raise InvalidArgumentError(f"class_names: {len(self.names)} names for {self.count} classes")
        if len(set(self.names)) != len(self.names) or not all(self.names):
            raise InvalidArgumentError("class_names: must differ from each other, and none be empty")

    @property
    def times(self) -> int:
        """How many more columns the times of its network have: w where that is an input, and the label."""
        return 1 + (self.guided > 1)

    def at_random(self, labels: Any) -> bool:
        """Whether the classes are to be drawn."""
        return isinstance(labels, str) and labels == RANDOM and RANDOM not in self.names

    def numbers(self, labels: Any, key: int, indices: NDArray[np.int64]) -> list[int]:
        """The labels of the samples ``indices`` of ``key``, one for all, one each by number or name, or ``RANDOM``.

        Raises :class:`InvalidArgumentError` for those that are none, or not as many.
        """
        n = len(indices)
        if self.at_random(labels):
            return philox.classes(key, indices, self.count).tolist()
        plain = labels.tolist() if hasattr(labels, "tolist") else labels  # tensors, NumPy's arrays and numbers
        if isinstance(plain, str) or not isinstance(plain, Iterable):
            return [self.number(plain)] * n
        found = [self.number(label) for label in cast(Iterable[Any], plain)]
        if len(found) != n:
            raise InvalidArgumentError(f"labels: got {len(found)} for {n} samples")
        return found

    def name(self, number: int) -> str:
        """What a class is called: by its name, or else its number."""
        return self.names[number] if self.names else str(number)

    def number(self, label: Any) -> int:
        """The number of a class, given by number or name."""
        if not isinstance(label, str):
            return check_integer("labels", label, 0, self.count - 1)
        if label not in self.names:
            known = ", ".join(self.names) if self.names else f"the numbers 0 to {self.count - 1}, which have no names"
            raise InvalidArgumentError(f"labels: no class {label!r}; there are {known}")
        return self.names.index(label)


def parsed_label(text: str | None, classes: Classes | None) -> int | str | None:
    """A label as a shell gives it, if it does: a name where a class is called so, else a number if it is one."""
    if text is None or not text.isdecimal() or (classes is not None and text in classes.names):
        return text
    return int(text)
