"""The Hugging Face Hub: what was named as ``owner/name``, of one commit, and nothing else; safetensors and JSON alone.

Names are here; ``client.py``, which imports ``huggingface_hub``, moves files. May import the root modules.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import InvalidArgumentError
from ..files import brief

__all__ = ["PICKLES", "check_repository", "converting", "hub_name", "title_of"]

NAME = re.compile(r"(?!.*(?:--|\.\.))(\w[\w.-]{0,90}/\w[\w.-]{0,90})(?<![.-])(?:@([\w./-]+))?", re.ASCII)
FILE = re.compile(
    r"\.(safetensors|onnx|engine|json|bin|ckpt|pth?|pkl|npz|npy|xml|h5|gguf|msgpack|zip|tar|gz|toml|yaml|png)", re.I
)
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def hub_name(text: str) -> tuple[str, str | None] | None:
    """``owner/name`` and the revision behind an ``@``, if any; None for what can only be a path.

    That is whatever begins with a dot, a slash or ~, has another number of slashes, or ends as files do.
    """
    found = NAME.fullmatch(text)
    if found is None or FILE.fullmatch(Path(found[1]).suffix):
        return None
    return found[1], found[2]


def title_of(folder: Path) -> str:
    """What a folder is called: of one in the Hub's cache, whose own name is a commit, its repository's name."""
    whole = folder.absolute()
    return whole.parent.parent.name.rpartition("--")[2] if whole.parent.name == "snapshots" else whole.name


def converting(source: str) -> str:
    """The line by which diffusers turns pickled weights into safetensors, in the folder NEW."""
    line = f"from diffusers import DiffusionPipeline as P; P.from_pretrained('{source}').save_pretrained('NEW')"
    return f'python -c "{line}"'


def check_repository(name: str) -> None:
    """Raise :class:`InvalidArgumentError` unless the Hub could have a repository of that name."""
    if hub_name(name) != (name, None):
        raise InvalidArgumentError(f"a repository is named owner/name, got {brief(repr(name))}")
