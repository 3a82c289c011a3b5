"""What an exported file says about itself, sealed against change. Imports neither PyTorch nor ONNX.

An ONNX file is a protobuf message, ``ModelProto``, and a message may be continued by appending fields. So the
exporter appends three metadata entries to the graph: the model's spec, the :class:`Artefact` and a digest
of everything else. Reading them walks the top-level fields alone; no graph is parsed, nothing executed.
The digest guards against accidents and edits, not against someone who computes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..config import read_config, read_json
from ..errors import CheckpointError, InvalidArgumentError
from ..files import check_regular, is_file, read_bytes, reading, sha256_of, sha256_of_file

__all__ = [
    "ARTEFACT_VERSION",
    "Artefact",
    "ArtefactKind",
    "Precision",
    "check_network",
    "data_path",
    "read_graph",
    "read_onnx",
    "sealed",
]

ARTEFACT_VERSION = 1

ABSENT: dict[str, object] = {"label": None, "takes_labels": False, "guidance": 1.0, "couplings": (), "sigma": 0.0}
ArtefactKind = Literal["network", "sampler", "restorer"]
Precision = Literal["fp32", "fp16", "bf16"]

SPEC_KEY, ARTEFACT_KEY, DIGEST_KEY = "stmd_spec", "stmd_artefact", "stmd_digest"

METADATA_PROPS = 14
# The fields of ModelProto: anything else at the top level is another kind of file.
MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, METADATA_PROPS, 20, 25, 26}
VARINT, SIXTY_FOUR, LENGTH_DELIMITED, THIRTY_TWO = 0, 1, 2, 5
FIXED = {SIXTY_FOUR: 8, THIRTY_TWO: 4}

MOST_BYTES = 2**31
"""A protobuf message ends there."""

# Where tensors can be: of each message, the fields that hold messages which may hold one, down to TensorProto.
MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE, FUNCTION, TRAINING = (
    "model", "graph", "node", "attribute", "tensor", "sparse", "function", "training",
)  # fmt: skip
INSIDE = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
    TRAINING: {1: GRAPH, 2: GRAPH},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14
DEEPEST = 64
"""Messages in messages; a graph in a branch of a graph takes three."""


@dataclass(frozen=True)
class Artefact:
    """How a graph was exported: what runs it and what it computes.

    ``kind`` is ``network`` (x, times → u), ``sampler`` (noise → samples, the loop inside) or ``restorer`` (noise, mask,
    y → samples given y, by split Gibbs sampling at the ``couplings``, for noise of deviation ``sigma``). ``weights``
    is the SHA-256 of the checkpoint, ``data`` that of the file beside the graph which holds its weights, where they
    are too large for the graph itself. A sampler also has its grid of ``times``, its Mean Flow steps and its
    ``guidance``, and draws one class, ``label``, or all; with ``takes_labels`` those of a last input, ``labels``.
    """

    kind: ArtefactKind
    precision: Precision
    opset: int
    weights: str
    times: tuple[float, ...] = ()
    mean_flow_steps: int = 0
    data: str = ""
    label: int | None = None
    takes_labels: bool = False
    guidance: float = 1.0
    couplings: tuple[float, ...] = ()
    sigma: float = 0.0
    version: int = ARTEFACT_VERSION

    def to_json(self) -> str:
        """As JSON; of a file without classes or couplings, as it was before there were any."""
        values = asdict(self)
        for key, absent in ABSENT.items():
            if values[key] == absent:
                del values[key]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> Artefact:
        """Read one; ``source`` names the file in errors."""
        values = read_json(text, f"{source}: its STMD metadata", CheckpointError)
        try:
            artefact = read_config(cls, values)
        except InvalidArgumentError as error:
            raise CheckpointError(f"{source}: foreign or damaged STMD metadata ({error})") from error
        if artefact.version > ARTEFACT_VERSION:
            raise CheckpointError(f"{source}: written by a newer version of the SDK; pip install -U stmd-sdk")
        return artefact


def check_network(artefact: Artefact, path: Path) -> None:
    """Raise for a whole sampler, which holds no network to call."""
    if artefact.kind == "restorer":
        raise CheckpointError(
            f"{path} is a whole restoring sampler: it draws from noise, a mask and y, and has no network to call; "
            "restore with its checkpoint: stmd restore --model"
        )
    if artefact.kind != "network":
        raise CheckpointError(
            f"{path} is a whole sampler: it draws samples from noise and has no network to call; "
            f"run it with: stmd sample --model {path}"
        )


def sealed(model: bytes, spec: str, artefact: Artefact) -> bytes:
    """A serialised ``ModelProto`` without metadata, continued by the spec, the artefact and the digest."""
    metadata = {SPEC_KEY: spec, ARTEFACT_KEY: artefact.to_json()}
    entries = {**metadata, DIGEST_KEY: sha256_of(model, _canonical(metadata))}
    return model + b"".join(_delimited(METADATA_PROPS, _entry(*item)) for item in entries.items())


def read_onnx(path: Path) -> tuple[str, Artefact]:
    """The spec (as JSON) and the artefact of an ONNX file, after checking that nothing in it was changed."""
    return read_graph(path)[1:]


def read_graph(path: Path) -> tuple[bytes, str, Artefact]:
    """The bytes of an ONNX file, its spec (as JSON) and its artefact, after checking that nothing was changed.

    A runtime is to be given these bytes, not the path, at which another file may stand by then. Weights outside the
    file are refused but in the one whose digest the artefact holds: ONNX lets a graph name any file to be read.
    """
    data = read_bytes(path, CheckpointError, MOST_BYTES)
    parts, metadata = list[memoryview](), dict[str, str]()
    for field, start, content, end in _fields(memoryview(data), path):
        if field not in MODEL_FIELDS:
            raise CheckpointError(f"{path}: not an ONNX file")
        if field == METADATA_PROPS:
            entry = {number: data[a:b] for number, _, a, b in _fields(memoryview(data)[content:end], path, content)}
            metadata[_text(entry.get(1, b""), path)] = _text(entry.get(2, b""), path)
        else:
            parts.append(memoryview(data)[start:end])
    for key in (SPEC_KEY, ARTEFACT_KEY, DIGEST_KEY):
        if key not in metadata:
            raise CheckpointError(f"{path}: an ONNX file without {key}; it was not written by stmd-export")
    expected = metadata.pop(DIGEST_KEY)
    if sha256_of(*parts, _canonical(metadata)) != expected:
        raise CheckpointError(
            f"{path}: the file was changed since stmd-export checked it; export it again from its checkpoint"
        )
    artefact = Artefact.from_json(metadata[ARTEFACT_KEY], str(path))
    _check_external(data, path, data_path(path).name if artefact.data else None)
    if artefact.data:
        _check_data(data_path(path), artefact.data)
    return data, metadata[SPEC_KEY], artefact


def data_path(path: Path) -> Path:
    """The file beside an ONNX file that holds weights too large for it."""
    return path.with_name(path.name + ".data")


def _check_data(path: Path, expected: str) -> None:
    if not is_file(path, CheckpointError):
        raise CheckpointError(f"{path}: no such file; it holds the weights")
    check_regular(path, CheckpointError)
    with reading(path, CheckpointError):
        found = sha256_of_file(path)
    if found != expected:
        raise CheckpointError(f"{path}: the weights were changed since stmd-export checked them, or are not whole")


def _check_external(data: bytes, path: Path, allowed: str | None) -> None:
    """Raise for a tensor, wherever it is in the graph, whose numbers are in another file than ``allowed``."""
    view, waiting = memoryview(data), [(MODEL, 0, len(data), 0)]
    while waiting:
        message, first, last, depth = waiting.pop()
        if depth > DEEPEST:
            raise CheckpointError(f"{path}: not an ONNX file; its messages are nested too deeply")
        for number, _, content, end in _fields(view[first:last], path, first, fixed=True):
            if message == TENSOR and _is_outside(number, view[content:end], path, allowed):
                raise CheckpointError(
                    f"{path}: its graph has weights in another file, which nothing vouches for; "
                    "export it again from its checkpoint"
                )
            inside = INSIDE.get(message, {}).get(number)
            if inside is not None:
                waiting.append((inside, content, end, depth + 1))


def _is_outside(number: int, content: memoryview, path: Path, allowed: str | None) -> bool:
    """Whether a field of a tensor says that its numbers are in another file than ``allowed``."""
    if number == DATA_LOCATION:
        return allowed is None and any(content)  # 0 is the default: in the tensor itself
    if number != EXTERNAL_DATA or allowed is None:
        return number == EXTERNAL_DATA
    entry = {key: content[a:b].tobytes() for key, _, a, b in _fields(content, path, fixed=True)}
    return entry.get(1) == b"location" and entry.get(2) != allowed.encode()


def _canonical(metadata: Mapping[str, str]) -> bytes:
    return json.dumps(metadata, sort_keys=True).encode()


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not an ONNX file") from error


def _fields(
    data: memoryview, path: Path, offset: int = 0, *, fixed: bool = False
) -> Iterator[tuple[int, int, int, int]]:
    """(number, start of the field, start of its content, end) of each field, counted from ``offset``.

    Numbers of a ``fixed`` width are in messages inside the graph alone.
    """
    position = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position, path)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            content = position
            _, position = _varint(data, position, path)
        elif wire == LENGTH_DELIMITED:
            length, content = _varint(data, position, path)
            position = content + length
        elif fixed and wire in FIXED:
            content, position = position, position + FIXED[wire]
        else:
            raise CheckpointError(f"{path}: not an ONNX file")
        if tag >= 2**32:  # of which a parser may take the lower half
            raise CheckpointError(f"{path}: not an ONNX file")
        if position > len(data):
            raise CheckpointError(f"{path}: not a whole ONNX file; it ends too early")
        yield number, start + offset, content + offset, position + offset


def _varint(data: memoryview, position: int, path: Path) -> tuple[int, int]:
    value, shift = 0, 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value, shift, position = value | (byte & 0x7F) << shift, shift + 7, position + 1
        if byte < 0x80:
            return value, position
    raise CheckpointError(f"{path}: not a whole ONNX file")


def _encoded(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _delimited(number: int, content: bytes) -> bytes:
    return _encoded(number << 3 | LENGTH_DELIMITED) + _encoded(len(content)) + content


def _entry(key: str, value: str) -> bytes:
    return _delimited(1, key.encode()) + _delimited(2, value.encode())
