"""Files of tensors: safetensors, sealed by a digest and written whole. Nothing in them is executed.

The format's own library opens a path twice, once for the header and once for the numbers, and between the two another
file may have taken the place; and it writes metadata in random order. So both are done here, for the dense tensors that
PyTorch has: eight bytes of length, a JSON header of that length, and the numbers.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import read_json
from ..errors import CheckpointError
from ..files import brief, check_regular, reading, sha256_of, written_whole

__all__ = ["digest_of", "opened_tensors", "read_metadata", "read_tensors", "write_tensors"]

DIGEST_KEY, METADATA = "stmd_sha256", "__metadata__"
HEADER_MOST = 100_000_000  # bytes, the format's own bound
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """The SHA-256 of tensors on the CPU (their names, types, shapes and bytes) and of metadata."""
    names = sorted(tensors)
    facts = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    header = json.dumps([facts, dict(metadata or {})], sort_keys=True).encode()
    return sha256_of(header, *(_bytes(tensors[name]) for name in names))


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, sealed, whole or not at all: equal ones are equal bytes. Raises OutputError."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    names = sorted(ready, key=lambda name: (-ready[name].dtype.itemsize, name))  # so that all are aligned
    header: dict[str, Any] = {METADATA: {**metadata, DIGEST_KEY: digest_of(ready, metadata)}}
    end = 0
    for name in names:
        begin, end = end, end + ready[name].nbytes
        kind = next(kind for kind, dtype in DTYPES.items() if dtype == ready[name].dtype)
        header[name] = {"dtype": kind, "shape": list(ready[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with written_whole(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(_bytes(ready[name]))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and metadata of a file, memory-mapped: numbers are read when they are used.

    They must be as :func:`write_tensors` wrote them; files from before it have no seal. The tensors change if the file
    is written to in place, which this project never does. Raises :class:`CheckpointError`.
    """
    with opened_tensors(path) as found:
        return found


@contextmanager
def opened_tensors(path: Path) -> Generator[tuple[dict[str, Tensor], dict[str, str]], None, None]:
    """As :func:`read_tensors`, but the seal is checked by another thread meanwhile and raises where the block ends.

    What is made of the tensors may be used after the block, then. The digest of a large file takes as long as the rest
    of its loading.
    """
    content, header, start = _mapped(path)
    metadata = _metadata(path, header)
    flat, end, tensors = torch.frombuffer(content, dtype=torch.uint8)[start:], 0, dict[str, Tensor]()
    for name, dtype, shape, begin, after in sorted((_entry(path, *item) for item in header.items()), key=_place):
        if begin != end or after > len(flat) or after - begin != math.prod(shape) * dtype.itemsize:
            raise _damaged(path, f"{brief(name)} is not where its header says")
        part, end = flat[begin:after], after
        tensors[name] = (part if (start + begin) % dtype.itemsize == 0 else part.clone()).view(dtype).reshape(shape)
    if end != len(flat):
        raise _damaged(path, f"its header says {end} bytes and {len(flat)} follow")
    expected = metadata.pop(DIGEST_KEY, None)
    if expected is None:
        yield tensors, metadata
        return
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(digest_of, dict(tensors), dict(metadata))
        try:
            yield tensors, metadata
        finally:
            if found.result() != expected:
                raise CheckpointError(f"{path}: damaged, its content is not what was written; copy it or make it anew")


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file, unchecked by its seal: its numbers are not read."""
    content, header, start = _mapped(path)
    metadata = _metadata(path, header)
    end = max((_entry(path, *item)[-1] for item in header.items()), default=0)
    if start + end != len(content):
        raise _damaged(path, f"its header says {end} bytes and {len(content) - start} follow")
    return {key: value for key, value in metadata.items() if key != DIGEST_KEY}


def _mapped(path: Path) -> tuple[mmap.mmap, dict[str, Any], int]:
    """The bytes of a file, its header, and where the numbers begin."""
    check_regular(path, CheckpointError)
    with reading(path, CheckpointError), path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except ValueError as error:
            raise _damaged(path, "it is empty") from error
    length = struct.unpack_from("<Q", content)[0] if len(content) >= 8 else HEADER_MOST
    if 8 + length > min(len(content), HEADER_MOST):
        raise _damaged(path, "its header is not all there")
    header: Any = read_json(content[8 : 8 + length], f"{path}: not a whole safetensors file", CheckpointError)
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no table")
    return content, header, 8 + length  # pyright: ignore[reportUnknownVariableType]


def _metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    """Take the metadata out of the header."""
    metadata: Any = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(path, "its metadata are no texts")
    return metadata  # pyright: ignore[reportUnknownVariableType]


def _entry(path: Path, name: str, entry: Any) -> tuple[str, torch.dtype, tuple[int, ...], int, int]:
    """(name, type, shape, begin, end) of a tensor."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if dtype in DTYPES:
            if all(isinstance(side, int) and side >= 0 for side in shape) and 0 <= begin <= end:
                return name, DTYPES[dtype], tuple(shape), begin, end
        case _:
            pass
    raise _damaged(path, f"{brief(name)} is no tensor that PyTorch has")


def _place(entry: tuple[str, torch.dtype, tuple[int, ...], int, int]) -> tuple[int, int]:
    return entry[3], entry[4]


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a whole safetensors file ({what})")
