"""The seam of networks: arrays to arrays."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

__all__ = ["Network"]


@runtime_checkable  # for the checks of annotations in the tests
class Network(Protocol):
    """The backend seam: a module, a compiled module, a graph, a session, an engine, or a lambda in a test."""

    def __call__(self, x: Float[Tensor, "b c_in *d"], times: Float[Tensor, "b k"], /) -> Float[Tensor, "b c *d"]:
        """Evaluate the network on packed inputs and ``k`` times a sample."""
        ...
