"""Measurements of samples, as measurements of what a network sees of standardised vectors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..codecs.codec import Codec, VectorCodec
from ..errors import InvalidArgumentError
from .projections import Matrix
from .protocol import LinearOperator

__all__ = ["through_codec"]

MOST_COLUMNS = 4096  # of a matrix that is written out


def through_codec(
    operator: LinearOperator, y: Float[Tensor, "1 *m"], codec: Codec
) -> tuple[LinearOperator, Float[Tensor, "1 *m"]]:
    """y = A x of x = m + S x_0 as y - A m = (A S) x_0, with the pseudoinverse of A S; others as they are."""
    if not isinstance(codec, VectorCodec) or not codec.scale:
        return operator, y
    if len(codec.scale) > MOST_COLUMNS:
        raise InvalidArgumentError(
            f"the model standardises its {len(codec.scale)} columns: measurements of more than {MOST_COLUMNS} are not "
            "translated; use a log-likelihood with chain or steer"
        )
    mean, scale = (torch.tensor(row, device=y.device) for row in (codec.mean, codec.scale))
    matrix = operator.A(scale.diag()).flatten(1).T.contiguous()
    return Matrix(matrix, (len(scale),)), (y - operator.A(mean[None])).flatten(1)
