"""A folder of latents, encoded once: shards of safetensors and an index that says what made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import UInt8
from torch import Tensor

from ..codecs.codec import ROWS, LatentCodec
from ..codecs.vae import weights_file
from ..config import read_config
from ..diffusion.noise import Noise
from ..errors import DataError, InvalidArgumentError
from ..files import written_whole
from ..models.tensors import read_tensors, write_tensors
from .arrays import ArrayData, ShardedData
from .pictures import stream_pictures

__all__ = ["INDEX", "LatentIndex", "cache_latents", "load_latents"]

INDEX = "latents.json"
SPLITS = "train", "test"


@final
@dataclass(frozen=True)
class LatentIndex:
    """What is in a folder of latents. ``count`` is None until the last picture is in."""

    source: str
    split: str
    size: int
    seed: int
    shard_size: int
    codec: LatentCodec
    count: int | None = None


def load_latents(folder: Path) -> ShardedData:
    """The latents of a finished folder, memory-mapped; raises :class:`DataError` for an unfinished or damaged one."""
    index = _read_index(folder)
    if index.count is None:
        raise DataError(f"{folder}: its latents are not all cached yet; run the same stmd-cache-latents again")
    shards: list[ArrayData] = []
    for i in range(-(-index.count // index.shard_size)):
        tensors, _ = read_tensors(_shard(folder, i))
        shards.append(ArrayData(folder.name, tensors["latents"], index.codec))
    data = ShardedData(folder.name, tuple(shards))
    if len(data) != index.count:
        raise DataError(f"{folder}: damaged, its index says {index.count} latents and its shards hold {len(data)}")
    return data


def cache_latents(
    source: str,
    folder: Path,
    codec: LatentCodec,
    size: int,
    *,
    split: str = "train",
    seed: int = 0,
    shard_size: int = 1024,
    device: torch.device | None = None,
    report: Callable[[int], None] | None = None,
) -> int:
    """Encode pictures into ``folder``, going on where an earlier call stopped; return how many there are.

    One draw of the VAE's posterior for each picture, with the key (seed, number of the picture), stored as float16:
    its rounding of 5e-4 is far below the posterior's own deviation. Each shard is written whole or not at all.
    Raises :class:`DataError` if the folder holds latents of anything else.
    """
    if split not in SPLITS:
        raise InvalidArgumentError(f"split must be 'train' or 'test', got {split!r}")
    if size % codec.factor or size < codec.factor:
        raise InvalidArgumentError(f"size: must be a multiple of the VAE's factor {codec.factor}, got {size}")
    with weights_file(codec.vae).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if codec.sha256 not in (None, digest):
        raise DataError(f"{codec.vae}: its weights have the SHA-256 {digest}, not {codec.sha256}")
    index = LatentIndex(source, split, size, seed, shard_size, replace(codec, sha256=digest))
    done = _resume(folder, index)
    if done is None:
        return _count(folder)
    pictures = stream_pictures(source, size, split=split, first=done * shard_size)
    total, shard = done * shard_size, done
    while batch := list(islice(pictures, shard_size)):
        latents = _encode(index, torch.stack(batch), total, device or torch.device("cpu"), report)
        write_tensors(_shard(folder, shard), {"latents": latents}, {})
        total, shard = total + len(batch), shard + 1
    if total == 0:
        raise DataError(f"{source}: has no pictures in its {split} split")
    _write_index(folder, replace(index, count=total))
    return total


def _encode(
    index: LatentIndex,
    pictures: UInt8[Tensor, "n 3 h w"],
    first: int,
    device: torch.device,
    report: Callable[[int], None] | None,
) -> Tensor:
    chunks: list[Tensor] = []
    with torch.no_grad():
        for rows in pictures.split(ROWS):
            start = first + ROWS * len(chunks)
            noise = Noise.of(index.seed, len(rows), first=start, device=device)
            chunks.append(index.codec.encode(rows.to(device).float() / 127.5 - 1, noise).half().cpu())
            if report is not None:
                report(start + len(rows))
    return torch.cat(chunks).contiguous()


def _resume(folder: Path, index: LatentIndex) -> int | None:
    """How many shards are done already; None if all are."""
    if not (folder / INDEX).exists():
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder}: is not empty and holds no latents; give an empty or a new folder")
        _write_index(folder, index)
        return 0
    found = _read_index(folder)
    old, new = asdict(replace(found, count=None)), asdict(index)
    if old != new:
        changes = ", ".join(f"{key}: {old[key]} there, {new[key]} here" for key in old if old[key] != new[key])
        raise DataError(f"{folder}: holds latents of another kind ({changes}); give another folder")
    if found.count is not None:
        return None
    done = 0
    while _shard(folder, done).exists():
        done += 1
    return done


def _count(folder: Path) -> int:
    return _read_index(folder).count or 0


def _shard(folder: Path, i: int) -> Path:
    return folder / f"latents-{i:05d}.safetensors"


def _write_index(folder: Path, index: LatentIndex) -> None:
    with written_whole(folder / INDEX) as path:
        path.write_text(json.dumps(asdict(index), indent=1) + "\n")


def _read_index(folder: Path) -> LatentIndex:
    try:
        values: Any = json.loads((folder / INDEX).read_text())
        return read_config(LatentIndex, values)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / INDEX}: cannot be read as the index of a folder of latents ({error})") from error
