"""Fetching from the Hub and publishing there.

``huggingface_hub`` does the work, with its own settings: HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE, and the login of
``hf auth login``. What it fetches it moves into its cache whole or not at all; digests are checked here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, errors
from huggingface_hub.utils import filter_repo_objects

from ..errors import CheckpointError, OutputError, StmdError, first_line
from ..files import brief, sha256_of_file
from . import PICKLES, converting

__all__ = ["fetched", "published"]

PATTERNS = ["*config.json", "model_index.json", "*.index.json", "*.safetensors"]
"""What is ever fetched: of the safetensors those that :func:`_weights` picks."""
DIFFUSERS = re.compile(r"(.*/)?diffusion_pytorch_model(-\d{5}-of-\d{5})?\.safetensors")


def fetched(name: str, revision: str | None) -> Path:
    """The local folder of a repository's model at a branch, tag or commit, None for its main branch.

    What is in the cache already is not fetched again, and serves alone where the Hub cannot be reached. Raises
    :class:`CheckpointError` for names and revisions that do not exist, repositories that are closed or hold no
    safetensors, downloads that break off, and files whose digest is not the one that the Hub says.
    """
    api = _api()
    with _told(name, revision, api.endpoint, CheckpointError):
        try:
            found = api.model_info(name, revision=revision, files_metadata=True)
        except errors.HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise
            return _kept(api, name, revision, error)
        except Exception as error:  # no network, offline mode, a proxy: each library has errors of its own for it
            return _kept(api, name, revision, error)
        files = {one.rfilename: one for one in found.siblings or ()}
        weights = _weights(name, files)
        wanted = [*weights, *filter_repo_objects(files, allow_patterns=PATTERNS[:-1])]
        folder = Path(api.snapshot_download(name, revision=revision, allow_patterns=wanted))
        for path in wanted:
            _check_digest(folder / path, files[path])
        return folder


def published(name: str, files: Mapping[str, bytes | Path], *, private: bool, message: str) -> str:
    """Put ``files``, by their paths in the repository, there in one commit; the address of the commit.

    A repository that does not exist is made. Raises :class:`OutputError` where that is not possible.
    """
    api = _api()
    with _told(name, None, api.endpoint, OutputError):
        api.create_repo(name, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        return str(api.create_commit(name, operations, commit_message=message).commit_url)


def _api() -> Any:
    """The library's own client; it reads HF_ENDPOINT when it is imported, which may have been long ago."""
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None)


def _weights(name: str, files: Iterable[str]) -> list[str]:
    """The weights that a repository's model is made of: diffusers' where there are any, without its variants."""
    safe = [file for file in files if file.endswith(".safetensors")]
    own = [file for file in safe if "/" not in file]
    found = [file for file in safe if DIFFUSERS.fullmatch(file)] or own
    if not safe and any(file.endswith(PICKLES) for file in files):
        raise CheckpointError(
            f"{name} holds pickled weights alone, which run what is in them when they are read. Where you trust them, "
            f"convert them: {converting(name)}"
        )
    if not found:
        raise CheckpointError(f"{name} holds no model: no *.safetensors of this project, and none of diffusers")
    if found is own and len(own) > 1:
        raise CheckpointError(f"{name} holds several models ({brief(', '.join(sorted(own)))}); one is needed")
    return found


def _kept(api: Any, name: str, revision: str | None, why: Exception) -> Path:
    """The folder in the cache, where the Hub cannot be reached."""
    try:
        # The JSON files alone: which of the weights were wanted, nobody says; who opens them finds what is missing.
        patterns = PATTERNS[:-1]
        folder = Path(api.snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
        if any(folder.rglob("*.safetensors")):
            return folder
    except errors.LocalEntryNotFoundError:
        pass
    raise CheckpointError(
        f"{name}: {api.endpoint} cannot be reached ({brief(first_line(why))}), and the model is not in the cache; nor "
        "is there a file or folder of that name here"
    ) from why


def _check_digest(path: Path, said: Any) -> None:
    """Raise, and take the file out of the cache, unless its digest is the Hub's: SHA-256 of large files, else Git's."""
    if said.lfs is not None:
        found, right = sha256_of_file(path), said.lfs.sha256
    else:
        data = path.read_bytes()
        found, right = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest(), said.blob_id
    if found != right:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{path.name}: what came is not what the Hub says it holds: digest {found}, not {right}")


@contextmanager
def _told(name: str, revision: str | None, endpoint: str, kind: type[StmdError]) -> Generator[None, None, None]:
    """Whatever the library and the network raise, as one error of this project."""
    try:
        yield
    except StmdError:
        raise
    except errors.HfHubHTTPError as error:
        raise kind(_answer(error, name, revision, endpoint, kind is OutputError)) from error
    except Exception as error:
        what = "cannot be fetched whole from" if kind is CheckpointError else "cannot be written to"
        raise kind(f"{name} {what} {endpoint} ({brief(first_line(error))})") from error


def _answer(error: Any, name: str, revision: str | None, endpoint: str, writing: bool) -> str:
    """What the Hub's refusal means."""
    status = error.response.status_code
    match error:
        case _ if writing and status in (401, 403, 404):
            return f"{name} may not be written to on {endpoint}: log in, as someone who may, with: hf auth login"
        case errors.GatedRepoError():
            return f"{name} is gated: ask for access at {endpoint}/{name}, then log in with: hf auth login"
        case errors.RepositoryNotFoundError():
            return (
                f"no {name}: neither a file or folder here, nor a model on {endpoint}; for one that is private log in "
                "with: hf auth login"
            )
        case errors.RevisionNotFoundError():
            return f"{name} has no revision {brief(repr(revision))}"
        case _:
            return f"{name}: {endpoint} refuses ({brief(first_line(error))})"
