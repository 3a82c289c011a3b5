"""Folders of diffusers: where in them the weights lie. Nothing in them is executed, and no pickle is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ..config import read_json
from ..errors import CheckpointError
from ..files import brief, is_file, read_bytes, reading
from ..hub import PICKLES, converting

__all__ = ["CONFIG", "INDEX", "read_table", "refuse_pickle", "weights_in"]

INDEX, CONFIG = "model_index.json", "config.json"
JSON_BYTES = 2**20
NETWORKS = "unet", "transformer", "network"  # the last as STMDPipeline has it


def read_table(path: Path) -> dict[str, Any]:
    """The table of a JSON file, or a :class:`CheckpointError`."""
    values: Any = read_json(read_bytes(path, CheckpointError, JSON_BYTES), str(path), CheckpointError)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds no table")
    return cast(dict[str, Any], values)


def refuse_pickle(path: Path) -> None:
    """Raise for a file that can only be read by executing what is in it."""
    graph = path.with_suffix(".xml")
    if path.suffix == ".bin" and is_file(graph, CheckpointError):
        raise CheckpointError(f"{path}: holds the weights of {graph}: name that one")
    if path.suffix in PICKLES:
        raise CheckpointError(
            f"{path}: is a pickle, which runs what is in it when it is read. Where you trust it, convert it: "
            + converting("FOLDER")
        )


def weights_in(folder: Path) -> Path | None:
    """The one file of weights in a pipeline's folder, or in that of a network alone; None in another kind of folder.

    Raises :class:`CheckpointError` for folders without weights, with several, or with pickles alone.
    """
    inside = folder
    if is_file(folder / INDEX, CheckpointError):
        index = read_table(folder / INDEX)
        named = [name for name in NETWORKS if index.get(name)]
        if not named:
            raise CheckpointError(
                f"{folder / INDEX}: a {brief(str(index.get('_class_name')))}, which has no unet and no transformer"
            )
        inside = folder / named[0]
    elif not is_file(folder / CONFIG, CheckpointError):
        return None
    if not is_file(inside / CONFIG, CheckpointError):
        raise CheckpointError(f"{inside}: has no {CONFIG}")
    with reading(inside, CheckpointError):
        files = sorted(path for path in inside.iterdir() if path.is_file())
    found = [path for path in files if path.suffix == ".safetensors"]
    if len(found) == 1:
        return found[0]
    if not found:
        for path in files:
            refuse_pickle(path)
        raise CheckpointError(f"{inside}: has no weights, as in diffusion_pytorch_model.safetensors")
    names = ", ".join(path.name for path in found[:3])
    raise CheckpointError(
        f"{inside}: has {len(found)} files of weights ({names}): name the one that is meant, or save it in one piece, "
        "as save_pretrained(..., max_shard_size='100GB') does"
    )
