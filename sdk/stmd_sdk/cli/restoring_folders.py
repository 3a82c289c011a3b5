"""A folder of images for ``stmd restore``: one after the other, resumed where it stopped, shared among processes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import final

from torch import Tensor

from ..data.pictures import picture_paths
from ..errors import CheckpointError, DataError, InvalidArgumentError, OutputError
from ..files import check_writable, is_file, is_folder, sha256_of_file
from ..models.checkpoint import resolve_model
from ..operators import LinearOperator
from ..progress import progress_bar
from ..runs.cluster import workers_at
from ..runs.outputs import FolderOutput
from ..runs.stream import claimed, process, run_seed
from .drawer import model_digest, placed
from .options import check_suffix
from .restoring import Damage, Restorer, Restoring, Results, restored_file

__all__ = ["Damage", "Restoring", "restored_folder", "restored_images"]


def restored_images(
    image: Path, model: str, device: str | None, damage: Damage, how: Restoring, seed: int | None, out: Path | None,
    save_draws: Path | None, ray: str | None,
) -> str:  # fmt: skip
    """Restore the image of a file, or those of a folder; what was done, for the user."""
    if is_folder(image, DataError):
        out = Path("restored") if out is None else out
        return restored_folder(image, model, device, damage, how, seed, out, save_draws, ray)
    if ray is not None:
        raise InvalidArgumentError("--ray restores the images of a folder, one on each core")
    out = Path("restored.png") if out is None else out
    check_suffix(out, ".png")
    if save_draws is not None:
        check_suffix(save_draws, ".npz", "--save-draws")
    return restored_file(image, model, device, damage, how, seed, out, save_draws)


def restored_folder(
    folder: Path, model: str, device: str | None, damage: Damage, how: Restoring, seed: int | None, out: Path,
    save_draws: Path | None, ray: str | None = None,
) -> str:  # fmt: skip
    """Restore the images of a folder that are not done yet; what was done, for the user.

    ``out`` gets a picture NAME.png of each, the folder ``save_draws`` its NAME.npz. ``ray`` is a cluster's address.
    """
    for where, option in ((out, "--out"), (save_draws, "--save-draws")):
        if where is not None and where.suffix in (".png", ".npz"):
            raise InvalidArgumentError(f"{option} must be a folder for a folder of images, got {str(where)!r}")
    images, output, (rank, world) = _images(folder), FolderOutput(out), process()
    if out.resolve() == folder.resolve():
        raise OutputError(f"{out}: holds the images to restore; choose another --out")
    check_writable(output.record)
    seed = run_seed(output, world) if seed is None else seed
    restorer = Restorer.open(model, device, damage, how, seed)
    for image in images:
        restorer.measurement(image)  # a bad one shows before any work
    facts: dict[str, object] = {"model": model_digest(resolve_model(model)), **asdict(damage), **asdict(how)}
    mask = Path(damage.operator.removeprefix("mask:"))
    facts |= {"seed": seed, "mask": sha256_of_file(mask) if is_file(mask, DataError) else None}
    started, places = time.perf_counter(), {image: _places(image, out, save_draws) for image in images[rank::world]}
    with claimed(output, facts) as begin:
        missing = [image for image, made in places.items() if not all(is_file(path, OutputError) for path in made)]
        remote = RemoteRestorer(placed(model), device, damage, how, seed, str(facts["model"]))
        work = partial(Results.of, restorer) if ray is None else remote
        with workers_at(ray, device) as every, progress_bar("restoring", len(missing), "image", True) as advance:
            for number, found in every(work, (restorer.measurement(image) for image in missing)):
                begin()
                shown, *saved = places[missing[number]]
                found.write(shown, saved[0] if saved else None)
                advance()
    seconds = time.perf_counter() - started
    return (
        f"{len(missing)} of {len(images)} images of {folder} restored now: {restorer.words}, {how.draws} draws each by "
        f"{how.method}, seed {seed}\n{seconds:.2f} s on {restorer.sampler.device}, written to {out}"
    )


@final
@dataclass(frozen=True)
class RemoteRestorer:
    """A restorer as a value, for whichever process; each opens the model once."""

    model: str
    device: str | None
    damage: Damage
    how: Restoring
    seed: int
    digest: str

    def __call__(self, operator: LinearOperator, y: Tensor, sigma: float) -> Results:
        """Restore a measurement. Raises :class:`CheckpointError` where the model is another one there."""
        return Results.of(_opened(self), operator, y, sigma)


@lru_cache(1)
def _opened(asked: RemoteRestorer) -> Restorer:
    if model_digest(resolve_model(asked.model)) != asked.digest:
        raise CheckpointError(f"{asked.model}: is another file on a worker than here")
    return Restorer.open(asked.model, asked.device, asked.damage, asked.how, asked.seed)


def _images(folder: Path) -> list[Path]:
    """The pictures of a folder, whose names must differ without their suffixes too."""
    images = picture_paths(folder, "test")
    if not images:
        raise DataError(f"{folder}: holds no pictures")
    name, times = Counter(image.stem for image in images).most_common(1)[0]
    if times > 1:
        raise DataError(f"{folder}: has {times} pictures named {name}, whose results would be one file: rename them")
    return images


def _places(image: Path, out: Path, save_draws: Path | None) -> list[Path]:
    """What is written of an image, the last of it first."""
    draws = [] if save_draws is None else [save_draws / f"{image.stem}.npz"]
    return [out / f"{image.stem}.png", *draws]
