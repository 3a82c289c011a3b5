"""OpenVINO's files, an .xml and the .bin of its weights, sealed as ONNX files are. Imports neither library.

What an exported file says of itself (see :mod:`.artefact`) stands in the .xml's ``rt_info``, under ``stmd``: the spec,
the artefact, whose ``data`` is the SHA-256 of the .bin, and a digest of the .xml with zeros in the digest's place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final
from xml.etree import ElementTree

from ..errors import CheckpointError
from ..files import is_file, read_bytes, sha256_of
from .artefact import MOST_BYTES, Artefact

__all__ = ["IR", "ROOM", "blank_entries", "read_ir", "sealed_ir", "weights_path"]

ROOM = "stmd"
"""The entry of ``rt_info`` that holds ours."""
SPEC, ARTEFACT, DIGEST = "spec", "artefact", "digest"
ZEROS = "0" * 64
LARGEST_XML = 2**28


@final
@dataclass(frozen=True)
class IR:
    """An OpenVINO model as it was read and checked: its graph, its weights, its spec (as JSON) and its artefact."""

    graph: bytes
    weights: bytes
    spec: str
    artefact: Artefact


def weights_path(path: Path) -> Path:
    """The file beside an .xml that holds its weights."""
    return path.with_suffix(".bin")


def blank_entries(spec: str, artefact: Artefact, weights: bytes) -> dict[str, str]:
    """What to put under ``rt_info`` / ``stmd`` before a graph is written, which :func:`sealed_ir` then seals."""
    return {SPEC: spec, ARTEFACT: replace(artefact, data=sha256_of(weights)).to_json(), DIGEST: ZEROS}


def sealed_ir(graph: bytes) -> bytes:
    """The .xml with the digest in place of its zeros."""
    return graph.replace(_quoted(ZEROS), _quoted(sha256_of(graph)))


def read_ir(path: Path) -> IR:
    """Both files, after checking that neither was changed. A runtime is to be given these bytes, not the path."""
    graph = read_bytes(path, CheckpointError, LARGEST_XML)
    entries = _entries(graph, path)
    digest, artefact = entries[DIGEST], Artefact.from_json(entries[ARTEFACT], str(path))
    if sha256_of(graph.replace(_quoted(digest), _quoted(ZEROS))) != digest:
        raise CheckpointError(
            f"{path}: the file was changed since stmd-export checked it; export it again from its checkpoint"
        )
    beside = weights_path(path)
    if not is_file(beside, CheckpointError):
        raise CheckpointError(f"{beside}: no such file; it holds the weights of {path.name}")
    weights = read_bytes(beside, CheckpointError, MOST_BYTES)
    if sha256_of(weights) != artefact.data:
        raise CheckpointError(
            f"{beside}: the weights were changed since stmd-export checked them, or are not whole, or another model's"
        )
    return IR(graph, weights, entries[SPEC], artefact)


def _entries(graph: bytes, path: Path) -> dict[str, str]:
    """Our entries of ``rt_info``: the last element of its name, parsed alone, so that no other part of the file is."""
    if not graph.lstrip().startswith(b"<?xml") or b"<net " not in graph[:4096]:
        raise CheckpointError(f"{path}: not an OpenVINO model")
    opening, closing = f"<{ROOM}>".encode(), f"</{ROOM}>".encode()
    start = graph.rfind(opening)
    end = graph.find(closing, start)
    if start < 0 or end < 0:
        raise CheckpointError(f"{path}: an OpenVINO model without {ROOM}; it was not written by stmd-export")
    try:
        found = {
            child.tag: child.get("value", "") for child in ElementTree.fromstring(graph[start : end + len(closing)])
        }
    except (ElementTree.ParseError, ValueError) as error:
        raise CheckpointError(f"{path}: not an OpenVINO model that stmd-export wrote ({error})") from error
    if found.keys() != {SPEC, ARTEFACT, DIGEST} or len(found[DIGEST]) != len(ZEROS):
        raise CheckpointError(f"{path}: foreign or damaged STMD metadata")
    return found


def _quoted(digest: str) -> bytes:
    return f'<{DIGEST} value="{digest}"'.encode()
