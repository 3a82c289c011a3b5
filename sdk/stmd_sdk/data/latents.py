"""A folder of latents, encoded once: shards of safetensors and an index that says what made them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ..checks import check_integer
from ..codecs.codec import ROWS, LatentCodec
from ..codecs.vae import weights_file
from ..config import read_config, read_json
from ..diffusion.noise import Noise
from ..errors import CheckpointError, DataError, InvalidArgumentError
from ..files import is_file, is_folder, read_bytes, sha256_of_file, written_whole
from ..locks import locked
from ..models.tensors import read_tensors, write_tensors
from .arrays import ArrayData, ShardedData
from .pictures import classes_of_folders, stream_pictures

__all__ = ["INDEX", "LatentIndex", "cache_latents", "load_latents"]

INDEX, INDEX_BYTES = "latents.json", 2**20
SPLITS = "train", "test"


@final
@dataclass(frozen=True)
class LatentIndex:
    """What is in a folder of latents. ``count`` is None until the last picture is in.

    With ``class_names`` each latent has a label, from the folder of its picture.
    """

    source: str
    split: str
    size: int
    seed: int
    shard_size: int
    codec: LatentCodec
    count: int | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InvalidArgumentError(f"split must be 'train' or 'test', got {self.split!r}")
        check_integer("shard_size", self.shard_size, 1)
        check_integer("size", self.size, 1)
        if self.size % self.codec.factor:
            raise InvalidArgumentError(
                f"size: must be a multiple of the VAE's factor {self.codec.factor}, got {self.size}"
            )
        if self.count is not None:
            check_integer("count", self.count, 1)


def load_latents(folder: Path) -> ShardedData:
    """The latents of a finished folder, memory-mapped; raises :class:`DataError` for an unfinished or damaged one."""
    index = _read_index(folder)
    if index.count is None:
        raise DataError(f"{folder}: its latents are not all cached yet; run the same stmd-cache-latents again")
    shards: list[ArrayData] = []
    for i in range(-(-index.count // index.shard_size)):
        latents, labels = _read_shard(_shard(folder, i), len(index.class_names))
        shards.append(ArrayData(folder.name, latents, index.codec, labels, index.class_names))
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
    its rounding of 5e-4 is far below the posterior's own deviation. Each shard is written whole or not at all. Pictures
    that lie in several folders have these for classes, and their labels are kept beside the latents.
    Raises :class:`DataError` if the folder holds latents of anything else.
    """
    index = LatentIndex(source, split, size, seed, shard_size, codec)
    labels, names = _classes(source, split)
    index = replace(index, codec=_identified(codec), class_names=names)
    with locked(folder / INDEX, folder):
        done = _resume(folder, index)
        if done is None:
            return _read_index(folder).count or 0
        pictures = stream_pictures(source, size, split=split, first=done * shard_size)
        total, shard = done * shard_size, done
        while batch := list(islice(pictures, shard_size)):
            latents = _encode(index, torch.stack(batch), total, device or torch.device("cpu"), report)
            if shard == 0:  # not before there is something to say of: a mistyped source leaves nothing
                _write_index(folder, index)
            own = {} if labels is None else {"labels": labels[total : total + len(batch)].contiguous()}
            write_tensors(_shard(folder, shard), {"latents": latents, **own}, {})
            total, shard = total + len(batch), shard + 1
        if total == 0:
            raise DataError(f"{source}: has no pictures in its {split} split")
        _write_index(folder, replace(index, count=total))
    return total


def _classes(source: str, split: str) -> tuple[Int[Tensor, " n"] | None, tuple[str, ...]]:
    """The labels of a folder's pictures where it has several folders of them, and what these are called."""
    if source.startswith("hf:") or not is_folder(Path(source), DataError):
        return None, ()
    found = classes_of_folders(Path(source), split)
    return found if found is not None and len(found[1]) > 1 else (None, ())


def _identified(codec: LatentCodec) -> LatentCodec:
    """The codec with the digest of its weights, which is the one that it names, if it names any."""
    digest = sha256_of_file(weights_file(codec.vae))
    if codec.sha256 not in (None, digest):
        raise DataError(f"{codec.vae}: its weights have the SHA-256 {digest}, not {codec.sha256}")
    return replace(codec, sha256=digest)


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
    """How many whole shards are done already; None if all pictures are."""
    if not is_file(folder / INDEX, DataError):
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise DataError(f"{folder}: is not empty and holds no latents; give an empty or a new folder")
        return 0
    found = _read_index(folder)
    old, new = asdict(replace(found, count=None)), asdict(index)
    if old != new:
        changes = ", ".join(f"{key}: {old[key]} there, {new[key]} here" for key in old if old[key] != new[key])
        raise DataError(f"{folder}: holds latents of another kind ({changes}); give another folder")
    if found.count is not None:
        return None
    done = 0
    classes = len(index.class_names)
    while is_file(path := _shard(folder, done), DataError) and len(_read_shard(path, classes)[0]) == index.shard_size:
        done += 1
    return done  # a shard that is not full is the last one, and made anew


def _read_shard(path: Path, classes: int) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"] | None]:
    """The latents of a shard, finite numbers, and their labels where there are ``classes``."""
    try:
        tensors = read_tensors(path)[0]
        latents, labels = tensors["latents"], tensors["labels"] if classes else None
    except (CheckpointError, KeyError) as error:
        raise DataError(f"{path}: damaged, not a shard of latents ({error}); remove it and cache again") from error
    if latents.ndim != 4 or len(latents) == 0 or not bool(torch.stack(torch.aminmax(latents)).isfinite().all()):
        raise DataError(f"{path}: damaged, its latents are not finite numbers [n, c, h, w]; remove it and cache again")
    if labels is not None and (
        labels.dtype != torch.int64
        or labels.shape != latents.shape[:1]
        or not bool(((labels >= 0) & (labels < classes)).all())
    ):
        raise DataError(
            f"{path}: damaged, its labels are not {len(latents)} of 0 to {classes - 1}; remove it and cache again"
        )
    return latents, labels


def _shard(folder: Path, i: int) -> Path:
    return folder / f"latents-{i:05d}.safetensors"


def _write_index(folder: Path, index: LatentIndex) -> None:
    with written_whole(folder / INDEX) as path:
        path.write_text(json.dumps(asdict(index), indent=1) + "\n")


def _read_index(folder: Path) -> LatentIndex:
    source = f"{folder / INDEX}: cannot be read as the index of a folder of latents"
    values: Any = read_json(read_bytes(folder / INDEX, DataError, INDEX_BYTES), source, DataError)
    try:
        return read_config(LatentIndex, values)
    except InvalidArgumentError as error:
        raise DataError(f"{source} ({error})") from error
