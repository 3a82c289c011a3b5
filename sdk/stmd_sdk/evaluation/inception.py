"""Inception features by torchmetrics, from the pinned weights, which are already on this machine."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, InvalidArgumentError, requires_extra
from ..files import is_file, read_bytes, sha256_of

__all__ = ["inception_features", "inception_weights"]

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_BYTES = 2**27  # they have 91 MB
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"


def inception_weights() -> Path | None:
    """The weights in PyTorch's own cache, where torch-fidelity puts them; None where there are none."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    return path if is_file(path, CheckpointError) else None


def inception_features(path: str | None, shape: tuple[int, ...]) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The 2048 features of the Inception network of the Fréchet inception distance (Heusel et al., 2017)."""
    if len(shape) != 3 or shape[0] != 3:
        raise InvalidArgumentError(f"Inception sees RGB images [3, h, w], the samples have shape {list(shape)}")
    weights = Path(path) if path else inception_weights()
    if weights is None or not is_file(weights, CheckpointError):
        raise CheckpointError(
            f"Inception's weights are not on this machine, and nothing is downloaded unasked; fetch {SOURCE} and give "
            "--features inception:FILE"
        )
    data = read_bytes(weights, CheckpointError, WEIGHTS_BYTES)
    if sha256_of(data) != SHA256:
        raise CheckpointError(f"{weights}: is not the Inception network of the Fréchet distance; fetch {SOURCE}")
    with requires_extra("fid"):
        import_module("torch_fidelity")  # which torchmetrics takes the network from
        from torchmetrics.image.fid import NoTrainInceptionV3  # noqa: PLC0415
    # The library unpickles what it is given: these very bytes, whose digest is pinned, and no file of anybody's.
    build: Any = NoTrainInceptionV3  # whose annotation says a path, and torch.load takes a file
    network = build("inception-v3-compat", ["2048"], feature_extractor_weights_path=io.BytesIO(data))

    def extract(x: Tensor) -> Tensor:
        return network(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))

    return f"Inception, weights of SHA-256 {SHA256[:16]}", extract
